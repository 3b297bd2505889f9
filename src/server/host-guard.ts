/**
 * Refuses requests that a web page elsewhere may have caused. A server on loopback is reachable by every page in the user's browser: by DNS
 * rebinding (the page's own name made to point here), which shows in the Host header, and by cross-site requests, which show in Origin or
 * Sec-Fetch-Site. Programs such as curl and the OpenAI clients send neither of the latter.
 */
import { ApiError } from './errors.ts';

const LOOPBACK_HOST = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?$/i;

export function isLoopbackAddress(host: string): boolean {
  return /^(?:localhost|127(?:\.\d{1,3}){3}|::1|\[::1\])$/i.test(host);
}

export interface RequestOrigin {
  readonly host: string | undefined;
  readonly origin: string | undefined;
  readonly fetchSite: string | undefined;
}

/**
 * @param isLoopbackServer whether the server listens on loopback only; elsewhere any Host may be the right one
 * @throws {ApiError} 403 saying which header was not accepted
 */
export function assertTrustedOrigin(request: RequestOrigin, isLoopbackServer: boolean): void {
  const { host, origin, fetchSite } = request;
  if (isLoopbackServer && (host === undefined || !LOOPBACK_HOST.test(host))) {
    throw forbidden(
      `Host "${host ?? ''}" is not accepted: a server on loopback answers to localhost, 127.0.0.1 and [::1]; ` +
        'start it with --host to serve other names',
    );
  }
  if (fetchSite === 'cross-site' || fetchSite === 'same-site') {
    throw forbidden('requests from pages of other sites are not accepted');
  }
  // Only browsers send Origin; `null` is a sandboxed frame or a local file.
  if (origin !== undefined && originHost(origin) !== host?.toLowerCase()) {
    throw forbidden(
      `Origin "${origin}" is not this server's; start it with --cors-origin ${origin} to let its pages ask`,
    );
  }
}

function originHost(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

function forbidden(message: string): ApiError {
  return new ApiError(403, message, { type: 'permission_error', code: 'forbidden_origin' });
}
