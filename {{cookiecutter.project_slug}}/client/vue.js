/** Vue composables of the client, for Vue 3.3 and later. What users see of types is in `vue.d.ts`. */

/** @import { App, InjectionKey, MaybeRefOrGetter, WatchCallback } from "vue" */
/** @import { BffClient, BffError, EventListener, EventMeta, Status } from "./bff-client.js" */

import {
  getCurrentInstance,
  inject,
  onMounted,
  onScopeDispose,
  shallowRef,
  toValue,
  watch,
} from "vue";

const KEY = /** @type {InjectionKey<BffClient>} */ (Symbol("bff"));

/**
 * A plugin, `app.use(bffPlugin(client))`: connects in a page, and closes with the app (from Vue
 * 3.5; before that call `client.close()`).
 *
 * @param {BffClient} client
 */
export function bffPlugin(client) {
  return {
    install(/** @type {App} */ app) {
      app.provide(KEY, client);
      app.onUnmount?.(() => client.close("unmounted"));
      if (globalThis.document) client.connect();
    },
  };
}

/** The client of the app. */
export function useBff() {
  const client = inject(KEY, null);
  if (client === null) throw new Error("useBff needs app.use(bffPlugin(client))");
  return client;
}

/** The state of the connection with its details, as a ref: `client.status`. */
export function useConnection() {
  const client = useBff();
  const status = shallowRef(client.status);
  whileMounted(() => client.onState((now) => (status.value = now), { current: true }));
  return status;
}

/**
 * Listen to an event while the component is mounted.
 *
 * @param {string} topic
 * @param {EventListener<any>} listener
 */
export function useEvent(topic, listener) {
  const client = useBff();
  whileMounted(() => client.on(topic, listener));
}

/**
 * Follow a topic, which may be a ref or a getter, while the component is mounted. Returns a ref of
 * its latest event, undefined before the first one. Without a topic nothing is followed.
 *
 * @param {MaybeRefOrGetter<string | null | undefined>} topic
 * @param {EventListener<any>} [listener]
 */
export function useTopic(topic, listener) {
  const client = useBff();
  const latest = shallowRef();
  /** @type {WatchCallback<string | null | undefined>} */
  const follow = (name, _before, onCleanup) => {
    latest.value = undefined;
    if (name == null) return;
    const following = client.follow(
      name,
      (/** @type {any} */ event, /** @type {EventMeta} */ meta) => {
        latest.value = event;
        listener?.(event, meta);
      },
    );
    onCleanup(following.off);
  };
  whileMounted(() => watch(() => toValue(topic), follow, { immediate: true }));
  return latest;
}

/**
 * The result of a request, which is sent again when the parameters (a ref or a getter) change, when
 * messages were lost (`onGap`), and when the connection is back after the request failed with it.
 *
 * @param {string} service
 * @param {string} method
 * @param {MaybeRefOrGetter<object>} params
 * @param {{ timeoutMs?: number }} options
 */
export function useRequest(service, method, params = {}, { timeoutMs } = {}) {
  const client = useBff();
  const [data, isLoading] = [shallowRef(), shallowRef(true)];
  const error = shallowRef(/** @type {BffError | null} */ (null));
  let control = new AbortController();
  const reload = async () => {
    control.abort();
    const { signal } = (control = new AbortController());
    isLoading.value = true;
    try {
      const result = await client.request(service, method, toValue(params), { signal, timeoutMs });
      if (signal.aborted) return;
      [data.value, error.value] = [result, null];
    } catch (problem) {
      if (signal.aborted) return;
      error.value = /** @type {BffError} */ (problem);
    }
    isLoading.value = false;
  };
  const onState = (/** @type {Status} */ { state }) => {
    if (state === "open" && error.value?.code === "connection_lost") reload();
  };
  whileMounted(() => {
    const ends = [
      watch(() => JSON.stringify(toValue(params)), reload, { immediate: true }),
      client.onGap(reload),
      client.onState(onState),
      () => control.abort(),
    ];
    return () => ends.forEach((end) => end());
  });
  return { data, error, isLoading, reload };
}

/**
 * Begin when the component is mounted, in a plain scope at once, and end with it.
 *
 * @param {() => () => void} begin returns what ends it
 */
function whileMounted(begin) {
  let end = () => {};
  const start = () => (end = begin());
  if (getCurrentInstance()) onMounted(start);
  else start();
  onScopeDispose(() => end());
}
