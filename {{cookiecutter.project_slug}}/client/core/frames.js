/**
 * The parts of a frame. If it cannot be read, the type is undefined and the payload is the data.
 *
 * @param {unknown} data
 * @returns {{ type?: unknown, payload: any }}
 */
export function parseFrame(data) {
  try {
    const { type, payload } = JSON.parse(/** @type {string} */ (data));
    if (payload === null || typeof payload !== "object") return { payload: data };
    return { type, payload };
  } catch {
    return { payload: data };
  }
}
