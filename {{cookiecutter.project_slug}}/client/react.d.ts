/** React hooks of the client, for React 18 and later. */

import type { ReactElement, ReactNode } from "react";
import type { BffClient, BffError, EventListener, Status } from "./bff-client.js";

/** Connects the client while it is mounted, and closes it after that. */
export function BffProvider(props: { client: BffClient; children?: ReactNode }): ReactElement;

/** The client of the nearest provider. */
export function useBff(): BffClient;

/** The state of the connection with its details: `client.status`. */
export function useConnection(): Status;

/** Listen to an event while mounted. The listener may be a new function in each render. */
export function useEvent<E = unknown>(topic: string, listener: EventListener<E>): void;

/**
 * Follow a topic while mounted. Returns its latest event, undefined before the first one. Without a
 * topic (null) nothing is followed.
 */
export function useTopic<E = unknown>(
  topic: string | null | undefined,
  listener?: EventListener<E>,
): E | undefined;

export interface RequestState<R> {
  /** The last result, also while a new one is loading. */
  readonly data: R | undefined;
  readonly error: BffError | null;
  readonly isLoading: boolean;
  /** Send the request again. */
  reload(): void;
}

/**
 * The result of a request, which is sent again when the parameters change, when messages were lost
 * (`onGap`), and when the connection is back after the request failed with it.
 */
export function useRequest<R = unknown>(
  service: string,
  method: string,
  params?: object,
  options?: { timeoutMs?: number; enabled?: boolean },
): RequestState<R>;
