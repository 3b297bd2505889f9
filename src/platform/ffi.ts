/**
 * The one file that touches `node:ffi`: opening shared libraries, calling their functions, viewing
 * native memory. Knows nothing of what the libraries do.
 *
 * `node:ffi` is experimental and changed within the 26.x line, so the Node binary that hasten
 * installs is pinned (26.10.0). It is taken through `process.getBuiltinModule`, so that this file
 * loads on every Node and only using it fails.
 *
 * Addresses are BigInt. A call with `pointer` arguments costs 6-50 ns; any other signature mix costs
 * 10 times that, so functions on hot paths should take pointers only.
 */
import type * as Ffi from 'node:ffi';
import { UnsupportedPlatformError } from './native-error.ts';

let loaded: typeof Ffi | undefined;

/** Loads `node:ffi` without its ExperimentalWarning; every other warning passes. */
function loadModule(): typeof Ffi | undefined {
  if (typeof process.getBuiltinModule !== 'function') return undefined;
  const { emitWarning } = process;
  process.emitWarning = ((warning: string | Error, ...rest: unknown[]) => {
    if (typeof warning === 'string' && warning.startsWith('FFI is an experimental')) return;
    Reflect.apply(emitWarning, process, [warning, ...rest]);
  }) as typeof process.emitWarning;
  try {
    return process.getBuiltinModule('node:ffi');
  } finally {
    process.emitWarning = emitWarning;
  }
}

function ffi(): typeof Ffi {
  if (loaded === undefined) {
    const reason = ffiUnavailableReason();
    if (reason !== undefined) throw new UnsupportedPlatformError(reason);
  }
  return loaded!;
}

/** Why `node:ffi` cannot be used, as a clause without a full stop; undefined if it can. */
export function ffiUnavailableReason(): string | undefined {
  if (loaded !== undefined) return undefined;
  const permission = (process as { permission?: { has(scope: string): boolean } }).permission;
  if (permission !== undefined && !permission.has('ffi')) {
    return 'Node was started with --permission but without --allow-ffi';
  }
  try {
    loaded = loadModule();
  } catch (error) {
    return `node:ffi failed to load (${(error as Error).message})`;
  }
  if (loaded === undefined) {
    return `Node ${process.version} has no node:ffi, or it is switched off; hasten needs Node 26, which npm installs with it`;
  }
  return undefined;
}

export type NativeType = Ffi.ArgumentType;
/** Values for `pointer`, `uint64` and `int64` are BigInt, for the smaller integers numbers. */
export type NativeFunction = (...args: (bigint | number | Uint8Array)[]) => unknown;
/** A native function of one to three addresses that returns nothing. */
export type PointerFunction = (a: bigint, b?: bigint, c?: bigint) => void;

/** An open shared library. It stays mapped until `close`; functions taken from it keep it alive. */
export class NativeLibrary {
  readonly path: string;
  #library: Ffi.DynamicLibrary;

  /** @throws {Error} with the dynamic linker's message if the file cannot be loaded */
  constructor(path: string) {
    this.path = path;
    this.#library = new (ffi().DynamicLibrary)(path);
  }

  /**
   * A callable function. One symbol of one library can have only one signature: asking again with
   * another one throws.
   */
  function(name: string, result: Ffi.ReturnType, args: readonly NativeType[]): NativeFunction {
    return this.#library.getFunction(name, { return: result, arguments: args }) as NativeFunction;
  }

  /** A function of `numArguments` addresses without result: the cheapest signature to call. */
  pointerFunction(name: string, numArguments: 1 | 2 | 3): PointerFunction {
    const args = new Array<'pointer'>(numArguments).fill('pointer');
    return this.#library.getFunction(name, { return: 'void', arguments: args }) as PointerFunction;
  }

  /** Where a symbol lies in this process. */
  address(name: string): bigint {
    return this.#library.getSymbol(name);
  }

  /** Unloads the library; calling its functions afterwards throws or worse. */
  close(): void {
    this.#library.close();
  }
}

/** Before glibc 2.34 threads and the dynamic linker were libraries of their own. */
const LIBC_NAMES = ['libc.so.6', 'libpthread.so.0', 'libdl.so.2'];
const libcLibraries: NativeLibrary[] = [];
/** Where this thread's `errno` lies, found early: finding it would overwrite what it says. */
let errnoAddress = 0n;
const libcFunctions = new Map<string, NativeFunction>();

/** A function of the C library (glibc), cached by name; always ask with the same signature. */
export function libcFunction(
  name: string,
  result: Ffi.ReturnType,
  args: readonly NativeType[],
): NativeFunction {
  const known = libcFunctions.get(name);
  if (known !== undefined) return known;
  let missing: unknown;
  for (const [i, path] of LIBC_NAMES.entries()) {
    libcLibraries[i] ??= openLibc(path);
    try {
      const f = libcLibraries[i].function(name, result, args);
      libcFunctions.set(name, f);
      return f;
    } catch (error) {
      missing ??= error;
    }
  }
  throw missing;
}

function openLibc(path: string): NativeLibrary {
  const library = new NativeLibrary(path);
  if (errnoAddress === 0n) {
    errnoAddress = library.function('__errno_location', 'pointer', [])() as bigint;
  }
  return library;
}

/**
 * The C library's `errno` of this thread. Best effort, for messages: the engine may make system
 * calls of its own in between.
 */
export function lastErrno(): number {
  return errnoAddress === 0n ? 0 : ffi().getInt32(errnoAddress);
}

/**
 * `length` bytes of native memory as an ArrayBuffer, without copying. The caller must keep the
 * memory mapped while any view of it is in use: nothing checks, and the process dies.
 */
export function arrayBufferAt(address: bigint, length: number): ArrayBuffer {
  return length === 0 ? new ArrayBuffer(0) : ffi().toArrayBuffer(address, length, false);
}
