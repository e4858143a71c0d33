/** Types that the modules of the client share. */

import type { Session, TransportKind } from "../bff-client.js";

/** Why a connection ended, or could not be opened. */
export interface End {
  code: number;
  reason: string;
  error?: unknown;
  /** Another attempt would end the same way. */
  isFinal?: boolean;
  /** The attempt took too long. */
  isTimeout?: boolean;
}

export interface TransportListener {
  onFrame(data: unknown): void;
  onClose(end: End): void;
  /** Something arrived that is no frame. */
  onAlive(): void;
  /** The transport has replaced its connection by another one. */
  onReplaced(hello: Session): void;
  /** A WebSocket can be had again, and shall take the place of the transport. */
  onUpgrade(socket: Transport, hello: Session): void;
}

/** A WebSocket, or an event stream. */
export interface Transport {
  readonly kind: TransportKind;
  listener: TransportListener;
  /** Returns whether the frame was sent, or what cancels a call that outlives the transport. */
  send(frame: { type: string; payload: object }, text: string): boolean | AbortController;
  /** Make the server send something. */
  ping(): void;
  /** Nothing more is reported. */
  close(): void;
}

export type SocketClass = new (url: string, protocols: string[]) => any;

/** What decides when a link is opened. */
export interface LinkOwner {
  onOpen(hello: Session, transport: TransportKind): void;
  onEnd(end: End): void;
}

/** What the connection reports to the client. */
export interface ConnectionListener {
  onOpen(hello: Session): void;
  /** The link was replaced by another one; nothing was missed that the hello does not tell. */
  onReplaced(hello: Session): void;
  /** A frame after the hello. The type is undefined if it cannot be read. */
  onFrame(type: unknown, payload: any): void;
  authenticate(token: string): Promise<unknown>;
  onLost(): void;
  onClosed(error: Error): void;
  onStatus(): void;
}
