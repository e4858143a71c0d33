/** React hooks of the client, for React 18 and later. */

import type { ReactElement, ReactNode } from "react";
import type {
  AnyContract,
  Arguments,
  BffClient,
  BffError,
  EventListener,
  Listen,
  MethodName,
  Params,
  Payload,
  Registered,
  Result,
  ServiceName,
  Status,
  TopicName,
  Untyped,
} from "./bff-client.js";

/** Connects the client while it is mounted, and closes it after that. */
export function BffProvider(props: {
  client: BffClient<Registered>;
  children?: ReactNode;
}): ReactElement;

/** The client of the nearest provider. */
export function useBff(): BffClient<Registered>;

/** The state of the connection with its details: `client.status`. */
export function useConnection(): Status;

/** Listen to an event while mounted. The listener may be a new function in each render. */
export const useEvent: Listen<Registered, void>;

type UseTopic<C extends AnyContract> = C extends Untyped
  ? <E = unknown>(topic: string | null | undefined, listener?: EventListener<E>) => E | undefined
  : <T extends TopicName<C>>(
      topic: T | null | undefined,
      listener?: EventListener<Payload<C, T>>,
    ) => Payload<C, T> | undefined;

/**
 * Follow a topic while mounted. Returns its latest event, undefined before the first one. Without a
 * topic (null) nothing is followed.
 */
export const useTopic: UseTopic<Registered>;

export interface RequestOptions {
  timeoutMs?: number;
  /** False: the request is not sent yet. */
  enabled?: boolean;
}

export interface RequestState<R> {
  /** The last result, also while a new one is loading. */
  readonly data: R | undefined;
  readonly error: BffError | null;
  readonly isLoading: boolean;
  /** Send the request again. */
  reload(): void;
}

type UseRequest<C extends AnyContract> = C extends Untyped
  ? <R = unknown>(
      service: string,
      method: string,
      params?: object,
      options?: RequestOptions,
    ) => RequestState<R>
  : <S extends ServiceName<C>, M extends MethodName<C, S>>(
      service: S,
      method: M,
      ...rest: Arguments<Params<C, S, M>, RequestOptions>
    ) => RequestState<Result<C, S, M>>;

/**
 * The result of a request, which is sent again when the parameters change, when messages were lost
 * (`onGap`), and when the connection is back after the request failed with it.
 */
export const useRequest: UseRequest<Registered>;
