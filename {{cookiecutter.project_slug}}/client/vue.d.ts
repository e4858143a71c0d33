/** Vue composables of the client, for Vue 3.3 and later. */

import type { MaybeRefOrGetter, Plugin, ShallowRef } from "vue";
import type { BffClient, BffError, EventListener, Status } from "./bff-client.js";

/** A plugin, `app.use(bffPlugin(client))`: connects in a page, and closes with the app. */
export function bffPlugin(client: BffClient): Plugin;

/** The client of the app. */
export function useBff(): BffClient;

/** The state of the connection with its details, as a ref: `client.status`. */
export function useConnection(): Readonly<ShallowRef<Status>>;

/** Listen to an event while the component is mounted. */
export function useEvent<E = unknown>(topic: string, listener: EventListener<E>): void;

/**
 * Follow a topic while the component is mounted. Returns a ref of its latest event, undefined before
 * the first one. Without a topic nothing is followed.
 */
export function useTopic<E = unknown>(
  topic: MaybeRefOrGetter<string | null | undefined>,
  listener?: EventListener<E>,
): Readonly<ShallowRef<E | undefined>>;

export interface RequestState<R> {
  /** The last result, also while a new one is loading. */
  readonly data: Readonly<ShallowRef<R | undefined>>;
  readonly error: Readonly<ShallowRef<BffError | null>>;
  readonly isLoading: Readonly<ShallowRef<boolean>>;
  /** Send the request again. */
  reload(): Promise<void>;
}

/**
 * The result of a request, which is sent again when the parameters change, when messages were lost
 * (`onGap`), and when the connection is back after the request failed with it.
 */
export function useRequest<R = unknown>(
  service: string,
  method: string,
  params?: MaybeRefOrGetter<object>,
  options?: { timeoutMs?: number },
): RequestState<R>;
