/** Who may ask: secrets, compared in constant time. Knows nothing of what a caller may do beyond that. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { HastenError } from '../platform/errors.ts';
import { ApiError } from './errors.ts';

export interface ApiKey {
  /** For logs and limits; never the secret. */
  readonly name: string;
  readonly secret: string;
}

export class ApiKeyError extends HastenError {
  constructor(message: string) {
    super('invalid_api_key', message);
  }
}

const digest = (secret: string): Buffer => createHash('sha256').update(secret).digest();

export class ApiKeys {
  readonly #keys: readonly { readonly name: string; readonly digest: Buffer }[];

  constructor(keys: readonly ApiKey[]) {
    this.#keys = keys.map(({ name, secret }) => ({ name, digest: digest(secret) }));
  }

  /** Whether a key is needed at all. */
  get isRequired(): boolean {
    return this.#keys.length > 0;
  }

  /**
   * The name of the key that a request carries, as `Authorization: Bearer`, or as `x-api-key`, which Anthropic's clients send.
   *
   * @throws {ApiError} 401 without a key or with a wrong one
   */
  nameOf(headers: IncomingHttpHeaders): string {
    const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
    const secret = bearer ?? headers['x-api-key'];
    if (typeof secret !== 'string' || secret === '') {
      throw unauthorized('an API key is needed: send "Authorization: Bearer KEY"');
    }
    const given = digest(secret);
    let name: string | undefined;
    // All of them, so that the time tells nothing of which one it was.
    for (const key of this.#keys) if (timingSafeEqual(key.digest, given)) name = key.name;
    if (name === undefined) throw unauthorized('the API key is not known here');
    return name;
  }
}

function unauthorized(message: string): ApiError {
  return new ApiError(401, message, { type: 'authentication_error', code: 'invalid_api_key' });
}

/** Keys given one by one: `SECRET` or `NAME:SECRET`. @throws {ApiKeyError} on one that no header can carry, never showing it */
export function parseApiKeys(texts: readonly string[]): ApiKey[] {
  return texts.map((text, index) => {
    const [, name = `key-${index + 1}`, secret] = /^(?:([\w.-]+):)?(.*)$/s.exec(text) ?? [];
    if (secret === undefined || !/^[\x21-\x7e]+$/.test(secret)) {
      throw new ApiKeyError(
        `API key ${index + 1}: expected SECRET or NAME:SECRET of visible ASCII characters without spaces`,
      );
    }
    return { name, secret };
  });
}

/** Keys in a file, one a line; empty lines and lines that begin with # count for nothing. */
export function parseApiKeyFile(text: string): ApiKey[] {
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  return parseApiKeys(lines.filter((line) => line !== '' && !line.startsWith('#')));
}
