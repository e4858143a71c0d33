/**
 * The parts of a frame; neither, if it cannot be read.
 *
 * @param {unknown} data
 * @returns {{ type?: any, payload?: any }}
 */
export function parseFrame(data) {
  try {
    const { type, payload } = JSON.parse(/** @type {string} */ (data));
    return { type, payload: payload ?? {} };
  } catch {
    return {};
  }
}
