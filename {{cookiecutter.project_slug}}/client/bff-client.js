/**
 * Client of the BFF: requests, live events and topics over one connection (`bff.v1`).
 *
 * Each stored message reaches the listeners exactly once and in order, or `onGap` reports the
 * streams in which messages were lost: then reload the data that depends on them.
 */

export { BffClient } from "./core/client.js";
export { closeText } from "./core/close-texts.js";
export { CloseCode } from "./core/close-codes.js";
export { BffError } from "./core/errors.js";
