/**
 * Makes emitted machine code callable: ELF image, memfd (or a private temporary file), dlopen.
 * Knows how code gets into the process, not what it computes.
 *
 * `node:ffi` calls only symbols of libraries, never bare addresses. `callerOfAddresses` loads a
 * trampoline that does: with it a worker calls code that another thread loaded, by address.
 */
import { mkdtempSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { threadId } from 'node:worker_threads';
import { HastenError, InternalError } from '../../platform/errors.ts';
import { libcFunction, NativeLibrary, type PointerFunction } from '../../platform/ffi.ts';
import { NativeThread } from '../../platform/native-thread.ts';
import { requirePlatformSupport } from '../../platform/support.ts';
import { Assembler, rax, rdi, rdx, rsi } from './assembler.ts';
import { type NamedCode, sharedObject } from './elf.ts';

export type { NamedCode } from './elf.ts';

/** The system does not let this process make code executable, by any way tried. */
export class NativeCodeRefusedError extends HastenError {
  /** What each way answered. */
  readonly attempts: readonly string[];

  constructor(attempts: readonly string[]) {
    super(
      'native_code_refused',
      `this system does not let the process load the code it compiled (${attempts.join('; ')}); ` +
        'allow memfd_create or a temporary folder that is not mounted noexec, ' +
        'or use --target reference',
    );
    this.attempts = attempts;
  }
}

/** Ways into the process, in the order they are tried. */
export type LoadMethod = 'memfd' | 'file';

export interface LoadOptions {
  /** Addresses that each function takes (default 2). One signature for all keeps calls cheap. */
  readonly numArguments?: 1 | 2 | 3;
  /** Default: memfd, then a file. */
  readonly methods?: readonly LoadMethod[];
  /** Folders for the file method; default: the system's temporary folders. */
  readonly directories?: readonly string[];
}

/** An mapped image and how to let go of what it holds besides the library. */
interface OpenedImage {
  readonly library: NativeLibrary;
  readonly release: () => void;
}

const MFD_CLOEXEC = 1;
/** Since Linux 6.3; asks for executability where `vm.memfd_noexec` is 1. */
const MFD_EXEC = 0x10;

function openMemfd(image: Uint8Array): OpenedImage {
  const memfd = libcFunction('memfd_create', 'int32', ['pointer', 'uint32']);
  // Not fs.closeSync, which in a worker warns about descriptors that fs did not open.
  const close = libcFunction('close', 'int32', ['int32']);
  const name = Buffer.from('hasten-code\0');
  let fd = memfd(name, MFD_CLOEXEC | MFD_EXEC) as number;
  if (fd < 0) fd = memfd(name, MFD_CLOEXEC) as number; // Older kernels refuse unknown flags.
  if (fd < 0) throw new Error('memfd_create is refused');
  try {
    for (let done = 0; done < image.length; ) done += writeSync(fd, image, done);
    // The descriptor stays open while the library is loaded: glibc recognises a loaded library by
    // its path, so a reused descriptor number would give the old code again.
    return { library: new NativeLibrary(`/proc/self/fd/${fd}`), release: () => close(fd) };
  } catch (error) {
    close(fd);
    throw error;
  }
}

function openFile(image: Uint8Array, directory: string): OpenedImage {
  const folder = mkdtempSync(join(directory, 'hasten-')); // mode 0700
  try {
    const path = join(folder, 'code.so');
    writeFileSync(path, image, { mode: 0o700, flag: 'wx' });
    return { library: new NativeLibrary(path), release: () => {} };
  } finally {
    // The mapping outlives the name.
    rmSync(folder, { recursive: true, force: true });
  }
}

function openImage(image: Uint8Array, options: LoadOptions): OpenedImage {
  const attempts: string[] = [];
  const attempt = (label: string, open: () => OpenedImage): OpenedImage | undefined => {
    try {
      return open();
    } catch (error) {
      attempts.push(`${label}: ${(error as Error).message}`);
      return undefined;
    }
  };
  for (const method of options.methods ?? ['memfd', 'file']) {
    if (method === 'memfd') {
      const opened = attempt('memfd', () => openMemfd(image));
      if (opened !== undefined) return opened;
      continue;
    }
    for (const directory of options.directories ?? [tmpdir(), '/dev/shm', '/var/tmp']) {
      const opened = attempt(directory, () => openFile(image, directory));
      if (opened !== undefined) return opened;
    }
  }
  throw new NativeCodeRefusedError(attempts);
}

/**
 * Images loaded and not disposed of. Held here because a library that is garbage collected is
 * unloaded, also while somebody still holds a function or an address of it.
 */
const liveImages = new Set<OpenedImage>();

/** Functions loaded together; unloaded by `dispose` or at the end of a `using` block. */
export class LoadedCode {
  #opened: OpenedImage | undefined;
  readonly #functions = new Map<string, PointerFunction>();
  readonly #addresses = new Map<string, bigint>();

  constructor(opened: OpenedImage, names: readonly string[], numArguments: 1 | 2 | 3) {
    this.#opened = opened;
    liveImages.add(opened);
    for (const name of names) {
      this.#functions.set(name, opened.library.pointerFunction(name, numArguments));
      this.#addresses.set(name, opened.library.address(name));
    }
  }

  /** The function itself, for hot paths; it must not be called after `dispose`. */
  function(name: string): PointerFunction {
    return this.#lookup(this.#functions, name);
  }

  /** Where the function lies, valid in all threads of the process until `dispose`. */
  address(name: string): bigint {
    return this.#lookup(this.#addresses, name);
  }

  /** Calls a function with one to three addresses, as many as were declared when loading. */
  call(name: string, a: bigint, b?: bigint, c?: bigint): void {
    const f = this.function(name);
    if (c !== undefined) f(a, b, c);
    else if (b !== undefined) f(a, b);
    else f(a);
  }

  /** Starts a thread in a function of one address, which must have come to its end before `dispose`. @throws {NativeThreadError} */
  startThread(name: string, argument: bigint): NativeThread {
    if (this.#opened === undefined) throw new InternalError(`${name}: the code was unloaded`);
    return new NativeThread(this.#opened.library, name, argument);
  }

  #lookup<T>(map: ReadonlyMap<string, T>, name: string): T {
    if (this.#opened === undefined) throw new InternalError(`${name}: the code was unloaded`);
    const found = map.get(name);
    if (found === undefined) throw new InternalError(`no function ${name} in this code`);
    return found;
  }

  /** Unloads the code. No thread may be running it or hold an address into it. */
  dispose(): void {
    const opened = this.#opened;
    if (opened === undefined) return;
    this.#opened = undefined;
    this.#functions.clear();
    liveImages.delete(opened);
    opened.library.close();
    opened.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

let numLoaded = 0;

/**
 * Loads functions into the process. They follow the System V calling convention and take
 * `numArguments` addresses; the caller vouches for what they do with them.
 *
 * @throws {UnsupportedPlatformError} where native code cannot run at all
 * @throws {NativeCodeRefusedError} where the system forbids new executable mappings
 */
export function loadCode(functions: readonly NamedCode[], options: LoadOptions = {}): LoadedCode {
  requirePlatformSupport();
  if (functions.length === 0) throw new InternalError('loadCode: no functions');
  const image = sharedObject(functions, `hasten-${threadId}-${numLoaded++}.so`);
  const names = functions.map((f) => f.name);
  return new LoadedCode(openImage(image, options), names, options.numArguments ?? 2);
}

/** Calls the function at `target` with two addresses. */
export type AddressCaller = (target: bigint, a: bigint, b: bigint) => void;

let addressCaller: AddressCaller | undefined;

/**
 * A function that calls code by its address, one per thread, loaded at first use. The code must
 * stay loaded, by whichever thread loaded it, and take at most two arguments.
 */
export function callerOfAddresses(options: Omit<LoadOptions, 'numArguments'> = {}): AddressCaller {
  if (addressCaller === undefined) {
    const a = new Assembler();
    a.mov(rax, rdi);
    a.mov(rdi, rsi);
    a.mov(rsi, rdx);
    a.jmp(rax);
    const loaded = loadCode([{ name: 'call', code: a.code() }], { ...options, numArguments: 3 });
    addressCaller = loaded.function('call') as AddressCaller;
  }
  return addressCaller;
}
