/**
 * The one fault of this part: a file that is not what it claims to be, or a question that the file cannot answer.
 */
import { HastenError } from '../platform/errors.ts';

/** What kind of fault, for callers that act on it; the message says the rest. */
export type WeightFault =
  /** No such file, not a regular file, no permission, an I/O error. */
  | 'unreadable'
  /** Neither GGUF nor safetensors. */
  | 'unrecognised'
  /** A version, byte order or type that is known but not supported. */
  | 'unsupported'
  /** The file ends before what it announces. */
  | 'truncated'
  /** Contents that contradict themselves or the format. */
  | 'corrupt'
  /** A count or length beyond what a sane model has. */
  | 'limit'
  /** A file of a split or sharded model is missing, or belongs to another one. */
  | 'incomplete'
  /** The caller's fault: no such tensor, rows out of range, buffer too short, source closed, wrong data to write. */
  | 'usage';

export interface WeightFileErrorOptions {
  readonly fault: WeightFault;
  readonly file: string;
  readonly tensor?: string;
  /** The numbers of the message, by name. */
  readonly values?: Readonly<Record<string, number | bigint | string>>;
  readonly cause?: unknown;
}

/** `file: tensor "name": what was wrong`, with the parts as fields. */
export class WeightFileError extends HastenError {
  readonly fault: WeightFault;
  readonly file: string;
  readonly tensor: string | null;
  readonly values: Readonly<Record<string, number | bigint | string>>;

  constructor(message: string, options: WeightFileErrorOptions) {
    const tensor = options.tensor === undefined ? '' : `tensor ${quoted(options.tensor)}: `;
    super('invalid_weight_file', `${options.file}: ${tensor}${message}`, { cause: options.cause });
    this.fault = options.fault;
    this.file = options.file;
    this.tensor = options.tensor ?? null;
    this.values = options.values ?? {};
  }
}

/** A name from a file, quoted for a message: control characters escaped, long ones cut. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 117)}...` : name);
}
