/**
 * Call `onActive` when the page becomes visible or the network returns. Returns a function that
 * ends it.
 *
 * @param {() => void} onActive
 */
export function watchPage(onActive) {
  const control = new AbortController();
  const listener = () => {
    if (globalThis.document?.visibilityState !== "hidden") onActive();
  };
  for (const name of ["online", "visibilitychange"]) {
    globalThis.addEventListener?.(name, listener, { signal: control.signal });
  }
  return () => control.abort();
}
