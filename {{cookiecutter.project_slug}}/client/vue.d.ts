/** Vue composables of the client, for Vue 3.3 and later. */

import type { MaybeRefOrGetter, Plugin, ShallowRef } from "vue";
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

type Shown<T> = Readonly<ShallowRef<T>>;

/**
 * A plugin, `app.use(bffPlugin(client))`: connects in a page, and closes with the app (from Vue
 * 3.5; before that call `client.close()`).
 */
export function bffPlugin(client: BffClient<Registered>): Plugin;

/** The client of the app. */
export function useBff(): BffClient<Registered>;

/** The state of the connection with its details, as a ref: `client.status`. */
export function useConnection(): Shown<Status>;

/** Listen to an event while the component is mounted. */
export const useEvent: Listen<Registered, void>;

type UseTopic<C extends AnyContract> = C extends Untyped
  ? <E = unknown>(
      topic: MaybeRefOrGetter<string | null | undefined>,
      listener?: EventListener<E>,
    ) => Shown<E | undefined>
  : <T extends TopicName<C>>(
      topic: MaybeRefOrGetter<T | null | undefined>,
      listener?: EventListener<Payload<C, T>>,
    ) => Shown<Payload<C, T> | undefined>;

/**
 * Follow a topic, which may be a ref or a getter, while the component is mounted. Returns a ref of
 * its latest event, undefined before the first one. Without a topic nothing is followed.
 */
export const useTopic: UseTopic<Registered>;

export interface RequestState<R> {
  /** The last result, also while a new one is loading. */
  readonly data: Shown<R | undefined>;
  readonly error: Shown<BffError | null>;
  readonly isLoading: Shown<boolean>;
  /** Send the request again. */
  reload(): Promise<void>;
}

type UseRequest<C extends AnyContract> = C extends Untyped
  ? <R = unknown>(
      service: string,
      method: string,
      params?: MaybeRefOrGetter<object>,
      options?: { timeoutMs?: number },
    ) => RequestState<R>
  : <S extends ServiceName<C>, M extends MethodName<C, S>>(
      service: S,
      method: M,
      ...rest: Arguments<MaybeRefOrGetter<Params<C, S, M>>, { timeoutMs?: number }>
    ) => RequestState<Result<C, S, M>>;

/**
 * The result of a request, which is sent again when the parameters (a ref or a getter) change, when
 * messages were lost (`onGap`), and when the connection is back after the request failed with it.
 */
export const useRequest: UseRequest<Registered>;
