/**
 * Whether native code can run in this process. Knows the conditions, not what the code does: the
 * CPU's instruction sets are the targets' business.
 */
import { ffiUnavailableReason, libcFunction } from './ffi.ts';
import { UnsupportedPlatformError } from './native-error.ts';

export type PlatformSupport =
  | { readonly supported: true }
  | {
      readonly supported: false;
      /** One clause, to follow "native code cannot run here: ". */
      readonly reason: string;
    };

let cached: PlatformSupport | undefined;

/** Says whether `node:ffi` and emitted x86-64 code are possible here, and otherwise why not. */
export function platformSupport(): PlatformSupport {
  cached ??= examine();
  return cached;
}

/** @throws {UnsupportedPlatformError} unless `platformSupport()` says yes */
export function requirePlatformSupport(): void {
  const support = platformSupport();
  if (!support.supported) throw new UnsupportedPlatformError(support.reason);
}

function examine(): PlatformSupport {
  const no = (reason: string): PlatformSupport => ({ supported: false, reason });
  if (process.platform !== 'linux') {
    return no(`the operating system is ${process.platform}, native code needs Linux`);
  }
  if (process.arch !== 'x64') {
    return no(`the processor is ${process.arch}, native code needs x64`);
  }
  const reason = ffiUnavailableReason();
  if (reason !== undefined) return no(reason);
  try {
    libcFunction('gnu_get_libc_version', 'pointer', [])();
  } catch (error) {
    return no(`the C library is not glibc (${(error as Error).message})`);
  }
  return { supported: true };
}
