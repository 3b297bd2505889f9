/**
 * Encodes chunks of rows on several threads, since looking for scales takes most of the time. The bytes are those of one thread: rows do not depend on each
 * other. Knows nothing of tensors and files.
 */
import { Worker } from 'node:worker_threads';
import { cpuTopology } from '../platform/topology.ts';
import { DTYPES } from '../tensor/dtype.ts';
import { EncodeKernels } from './encode-kernels.ts';
import { encodeRows, type RowsToEncode } from './encode-rows.ts';
import { CompressError, NonFiniteWeightError } from './errors.ts';

export interface EncodeJob {
  readonly id: number;
  readonly rows: RowsToEncode;
}

export type EncodeAnswer =
  | {
      readonly id: number;
      readonly encoded: Uint8Array;
      /** Given back. */
      readonly stored: Uint8Array;
    }
  | { readonly id: number; readonly weight: NonFiniteWeight }
  | { readonly id: number; readonly error: unknown };

/** Where a weight is that is no number. */
export type NonFiniteWeight = Pick<NonFiniteWeightError, 'row' | 'column' | 'value'> & {
  readonly tensor: string;
};

/** Below so many elements in all, starting threads takes longer than it saves. */
const WORTH_ELEMENTS = 1 << 22;

export class EncoderTeam implements Disposable {
  readonly #numThreads: number;
  #workers: Worker[] | null = null;
  /** Of this thread, where it encodes itself; null for none, undefined before it does. */
  #kernels: EncodeKernels | null | undefined;
  readonly #pending = new Map<number, PromiseWithResolvers<Uint8Array>>();
  /** Memory of rows that are encoded. */
  readonly #spare: ArrayBuffer[] = [];
  #numJobs = 0;

  /**
   * @param threads null: one per core
   * @param totalElements that there are to encode in all; few of them are encoded by whoever asks
   */
  constructor(threads: number | null, totalElements: number) {
    this.#numThreads = totalElements < WORTH_ELEMENTS ? 1 : (threads ?? cpuTopology().usableCores);
  }

  /** How many chunks may be asked for at once, so that no thread waits. */
  get depth(): number {
    return 2 * this.#numThreads;
  }

  /** For the stored rows of a job, which owns it from then on. */
  buffer(sizeBytes: number): Uint8Array {
    const spare = this.#spare.pop();
    return spare !== undefined && spare.byteLength >= sizeBytes
      ? new Uint8Array(spare, 0, sizeBytes)
      : new Uint8Array(sizeBytes);
  }

  /**
   * @param rows stored in a `buffer` of the team
   * @throws {NonFiniteWeightError} at the first weight that is NaN or infinite
   */
  async encode(rows: RowsToEncode): Promise<Uint8Array> {
    // Floats in another width are as quick as sending them.
    if (this.#numThreads === 1 || DTYPES[rows.to].blockElements === 1) {
      if (this.#kernels === undefined) this.#kernels = EncodeKernels.create();
      const encoded = encodeRows(rows, this.#kernels);
      this.#keep(rows.stored);
      return encoded;
    }
    this.#workers ??= Array.from({ length: this.#numThreads }, () => this.#start());
    const id = this.#numJobs++;
    const pending = Promise.withResolvers<Uint8Array>();
    this.#pending.set(id, pending);
    const job: EncodeJob = { id, rows };
    const transferred = [rows.stored.buffer as ArrayBuffer];
    this.#workers[id % this.#numThreads]!.postMessage(job, transferred);
    return await pending.promise;
  }

  #keep({ buffer }: Uint8Array): void {
    if (this.#spare.length < this.depth) this.#spare.push(buffer as ArrayBuffer);
  }

  #start(): Worker {
    const worker = new Worker(new URL('./encode-worker.ts', import.meta.url), {
      name: 'hasten-encode',
    });
    worker.on('message', (answer: EncodeAnswer) => {
      const pending = this.#pending.get(answer.id);
      this.#pending.delete(answer.id);
      if ('encoded' in answer) {
        this.#keep(answer.stored);
        pending?.resolve(answer.encoded);
      } else if ('weight' in answer) {
        const { tensor, row, column, value } = answer.weight;
        pending?.reject(new NonFiniteWeightError(tensor, row, column, value));
      } else pending?.reject(answer.error);
    });
    worker.on('error', (cause) => this.#fail(cause));
    worker.on('exit', () => this.#fail(null));
    return worker;
  }

  #fail(cause: unknown): void {
    const error = new CompressError('a thread that encodes rows ended', { cause });
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  [Symbol.dispose](): void {
    // They end by themselves, after what they have been asked for; nobody waits for them.
    for (const worker of this.#workers ?? []) {
      worker.postMessage(null);
      worker.unref();
    }
    this.#workers = null;
    this.#kernels?.[Symbol.dispose]();
    this.#kernels = undefined;
  }
}
