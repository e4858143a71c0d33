export function isPageVisible() {
  return globalThis.document?.visibilityState === "visible";
}

/**
 * Watch the page's life. Returns a function that ends it.
 *
 * `onActive`: the page is visible, awake or online again. `onOffline`: the network is gone.
 * `onHide`: the page goes away, perhaps into the back/forward cache, which takes no page with an
 * open connection.
 *
 * @param {{ onActive(): void, onOffline(): void, onHide(): void }} listener
 */
export function watchPage({ onActive, onOffline, onHide }) {
  const control = new AbortController();
  const listen = (
    /** @type {Partial<EventTarget> | undefined} */ target,
    /** @type {string} */ name,
    /** @type {(event: any) => void} */ then,
  ) => target?.addEventListener?.(name, then, { signal: control.signal });
  const ifVisible = () => {
    if (globalThis.document?.visibilityState !== "hidden") onActive();
  };
  listen(globalThis, "online", ifVisible);
  listen(globalThis, "visibilitychange", ifVisible);
  listen(globalThis, "pageshow", ({ persisted }) => persisted && onActive());
  listen(globalThis.document, "resume", onActive);
  listen(globalThis, "offline", onOffline);
  listen(globalThis, "pagehide", onHide);
  return () => control.abort();
}
