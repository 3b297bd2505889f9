/**
 * Threads that run native code and nothing else: they start in 0.1 ms and take a few kilobytes, where a worker thread of Node takes 50 ms and
 * ten megabytes. Knows POSIX threads, not what they do.
 */
import { libcFunction, type NativeLibrary } from './ffi.ts';
import { NativeThreadError } from './native-error.ts';

const RTLD_NOW = 2;

const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM: not permitted',
  11: 'EAGAIN: no more threads or memory for their stacks',
};

export class NativeThread {
  readonly #handle: bigint;
  readonly #library: bigint;
  #isJoined = false;

  /**
   * Starts a thread at `symbol(argument)`. The library stays loaded until the thread has been joined, also where the worker thread that started
   * it is terminated, which closes libraries.
   *
   * @throws {NativeThreadError} if the system gives no thread
   */
  constructor(library: NativeLibrary, symbol: string, argument: bigint) {
    const open = libcFunction('dlopen', 'pointer', ['pointer', 'int32']);
    this.#library = open(Buffer.from(`${library.path}\0`), RTLD_NOW) as bigint;
    if (this.#library === 0n) throw new NativeThreadError(`${library.path} is not loaded`);
    const handle = new BigUint64Array(1);
    const create = libcFunction('pthread_create', 'int32', Array(4).fill('pointer'));
    const bytes = new Uint8Array(handle.buffer);
    const errno = create(bytes, 0n, library.address(symbol), argument) as number;
    this.#handle = handle[0]!;
    if (errno === 0) return;
    this.#closeLibrary();
    throw new NativeThreadError(ERRNO_NAMES[errno] ?? `errno ${errno}`);
  }

  /** Waits until the thread has come to its end; blocks the caller. */
  join(): void {
    if (this.#isJoined) return;
    this.#isJoined = true;
    libcFunction('pthread_join', 'int32', ['uint64', 'pointer'])(this.#handle, 0n);
    this.#closeLibrary();
  }

  #closeLibrary(): void {
    libcFunction('dlclose', 'int32', ['pointer'])(this.#library);
  }
}
