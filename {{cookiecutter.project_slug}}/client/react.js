/** React hooks of the client, for React 18 and later. What users see of types is in `react.d.ts`. */

/** @import { ReactNode } from "react" */
/** @import { BffClient, BffError, EventListener, EventMeta, Status } from "./bff-client.js" */

import {
  createContext,
  createElement,
  useContext,
  useEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";

const Context = createContext(/** @type {BffClient | null} */ (null));
/** Clients whose provider was unmounted, to the timer that closes them. */
const closing = /** @type {WeakMap<BffClient, ReturnType<typeof setTimeout>>} */ (new WeakMap());

/**
 * Connects the client while it is mounted. React's strict mode mounts everything twice, so the
 * client closes only when it is not mounted again at once.
 *
 * @param {{ client: BffClient, children?: ReactNode }} props
 */
export function BffProvider({ client, children }) {
  useEffect(() => {
    clearTimeout(closing.get(client));
    client.connect();
    return () => {
      closing.set(
        client,
        setTimeout(() => client.close("unmounted")),
      );
    };
  }, [client]);
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useBff() {
  const client = useContext(Context);
  if (client === null) throw new Error("useBff needs a <BffProvider client={…}> above it");
  return client;
}

/** The state of the connection with its details: `client.status`. */
export function useConnection() {
  const client = useBff();
  const store = useMemo(
    () => ({
      subscribe: (/** @type {() => void} */ changed) => client.onState(changed),
      get: () => client.status,
    }),
    [client],
  );
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}

/**
 * Listen to an event while mounted. The listener may be a new function in each render.
 *
 * @param {string} topic
 * @param {EventListener<any>} listener
 */
export function useEvent(topic, listener) {
  const client = useBff();
  const latest = useLatest(listener);
  useEffect(
    () =>
      client.on(topic, (/** @type {any} */ event, /** @type {EventMeta} */ meta) =>
        latest.current(event, meta),
      ),
    [client, topic, latest],
  );
}

/**
 * Follow a topic while mounted. Returns its latest event, undefined before the first one. Without a
 * topic (null) nothing is followed.
 *
 * @param {string | null | undefined} topic
 * @param {EventListener<any>} [listener]
 */
export function useTopic(topic, listener) {
  const client = useBff();
  const latest = useLatest(listener);
  const store = useMemo(() => topicStore(client, topic, latest), [client, topic, latest]);
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}

/**
 * The result of a request, which is sent again when the parameters change, when messages were lost
 * (`onGap`), and when the connection is back after the request failed with it.
 *
 * @param {string} service
 * @param {string} method
 * @param {object} params
 * @param {{ timeoutMs?: number, enabled?: boolean }} options
 */
export function useRequest(service, method, params = {}, options = {}) {
  const client = useBff();
  const { enabled = true, timeoutMs } = options;
  const key = JSON.stringify(params);
  const [state, setState] = useState({
    data: /** @type {any} */ (undefined),
    error: /** @type {BffError | null} */ (null),
    isLoading: enabled,
  });
  const [round, reload] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    if (!enabled) return undefined;
    const control = new AbortController();
    const { signal } = control;
    const finish = (/** @type {Partial<typeof state>} */ change) => {
      if (!signal.aborted) setState((before) => ({ ...before, isLoading: false, ...change }));
    };
    setState((before) => (before.isLoading ? before : { ...before, isLoading: true }));
    client.request(service, method, JSON.parse(key), { signal, timeoutMs }).then(
      (/** @type {unknown} */ data) => finish({ data, error: null }),
      (/** @type {BffError} */ error) => finish({ error }),
    );
    return () => control.abort();
  }, [client, service, method, key, timeoutMs, enabled, round]);
  useEffect(() => client.onGap(reload), [client]);
  const isLost = state.error?.code === "connection_lost";
  useEffect(() => {
    if (!isLost) return undefined;
    const onState = (/** @type {Status} */ { state }) => state === "open" && reload();
    return client.onState(onState, { current: true });
  }, [client, isLost]);
  return { ...state, isLoading: enabled && state.isLoading, reload };
}

/**
 * A ref whose value is that of the last render.
 *
 * @template T
 * @param {T} value
 */
function useLatest(value) {
  const latest = useRef(value);
  useEffect(() => {
    latest.current = value;
  });
  return latest;
}

/**
 * @param {BffClient} client
 * @param {string | null | undefined} topic
 * @param {{ current: EventListener<any> | undefined }} latest
 */
function topicStore(client, topic, latest) {
  /** @type {any} */
  let value;
  return {
    get: () => value,
    subscribe(/** @type {() => void} */ changed) {
      if (topic == null) return () => {};
      const following = client.follow(
        topic,
        (/** @type {any} */ event, /** @type {EventMeta} */ meta) => {
          value = event;
          latest.current?.(event, meta);
          changed();
        },
      );
      return following.off;
    },
  };
}
