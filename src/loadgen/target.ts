/**
 * Whom the load is for: the address, what is said in every request, and the rule that only this machine is loaded unless told otherwise.
 * Knows no HTTP.
 */
import { BlockList, isIP } from 'node:net';
import { TargetError } from './errors.ts';

export type Endpoint = 'chat' | 'completions';

export interface Target {
  /** Scheme, host and port, with a path only where the API stands below one; never ends in `/v1` or `/`. */
  readonly baseUrl: URL;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * @param text `http://127.0.0.1:8000`, with or without `/v1`
 * @throws {TargetError} if it is no HTTP address, holds a password, or is not this machine's and `allowRemote` is not set
 */
export function parseBaseUrl(text: string, allowRemote: boolean): URL {
  const url = URL.parse(text);
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new TargetError(`"${text}": expected an address such as http://127.0.0.1:8000`);
  }
  if (url.username !== '' || url.password !== '') {
    throw new TargetError(`"${url.host}": a name or password in the address is not taken`);
  }
  if (!allowRemote && !isLoopbackHost(url.hostname)) {
    throw new TargetError(
      `"${url.hostname}" is not this machine. A load test is an attack on whoever did not ask for it; --allow-remote says that it is wanted`,
    );
  }
  url.pathname = url.pathname.replace(/\/+$/, '').replace(/\/v1$/, '');
  url.search = '';
  url.hash = '';
  return url;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

/** By its text alone: names other than localhost are not looked up. */
function isLoopbackHost(hostname: string): boolean {
  const host = hostname.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  const version = isIP(host);
  if (version === 0) return host === 'localhost' || host.endsWith('.localhost');
  return LOOPBACK.check(host, version === 6 ? 'ipv6' : 'ipv4');
}

/** The path of an endpoint below the base. */
export function endpointUrl({ baseUrl }: Target, path: string): URL {
  const url = new URL(baseUrl);
  url.pathname = `${baseUrl.pathname.replace(/\/$/, '')}${path}`;
  return url;
}
