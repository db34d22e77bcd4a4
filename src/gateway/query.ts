/**
 * Query strings: `application/x-www-form-urlencoded` (WHATWG URL section 5), but strict.
 *
 * Decoded once and checked after; a bad percent-encoding, bytes that are no UTF-8 or a name given twice are refused, because
 * guessing what a client meant by a path is how the wrong file gets deleted. Pure.
 */
import { argumentsInvalid } from "./http-error.ts";

/**
 * The parameters of a query string (without "?") by name.
 * @throws DriveError ARGUMENT_INVALID
 */
export function parseQuery(text: string): Record<string, string> {
  const parameters = new Map<string, string>();
  for (const pair of text.split("&")) {
    if (pair === "") continue;
    const at = pair.indexOf("=");
    const name = decode(at < 0 ? pair : pair.slice(0, at));
    const value = at < 0 ? "" : decode(pair.slice(at + 1));
    if (parameters.has(name)) throw argumentsInvalid([`query.${name}: given more than once`]);
    parameters.set(name, value);
  }
  return Object.fromEntries(parameters);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    throw argumentsInvalid([`query: ${JSON.stringify(text.slice(0, 64))} is not percent-encoded UTF-8`]);
  }
}
