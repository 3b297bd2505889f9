/** Which pages of other origins may use the API, and what browsers are told of it (https://fetch.spec.whatwg.org/#http-cors-protocol). */

export class CorsPolicy {
  readonly #origins: ReadonlySet<string>;

  /** @param origins such as `https://app.example`; `*` for all; none: only the server's own pages */
  constructor(origins: readonly string[]) {
    this.#origins = new Set(origins.map((origin) => origin.toLowerCase()));
  }

  allows(origin: string | undefined): boolean {
    if (origin === undefined) return false;
    return this.#origins.has('*') || this.#origins.has(origin.toLowerCase());
  }

  /** For every answer to an allowed origin. */
  headers(origin: string): Record<string, string> {
    return {
      'access-control-allow-origin': this.#origins.has('*') ? '*' : origin,
      'access-control-expose-headers': 'retry-after, x-request-id',
      vary: 'origin',
    };
  }

  /** For the answer to a browser's question before the request itself. */
  preflightHeaders(origin: string, requestedHeaders: string | undefined): Record<string, string> {
    return {
      ...this.headers(origin),
      'access-control-allow-methods': 'GET, POST, OPTIONS',
      'access-control-allow-headers': requestedHeaders ?? 'authorization, content-type, x-api-key',
      'access-control-max-age': '600',
    };
  }
}
