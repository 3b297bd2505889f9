/** A full disk said as such, with the file that had no room. */
import { asDiskError } from '../hub/download.ts';
import { DiskSpaceError } from '../hub/errors.ts';
import { CommandError } from './errors.ts';

/**
 * @param kept what is not lost, as a sentence; '' where nothing is
 * @returns the error to throw: anything else comes back as it is
 */
export function diskFull(error: unknown, path: string, kept = ''): unknown {
  if (!(asDiskError(error, path) instanceof DiskSpaceError)) return error;
  const way = `free some, or name a file on another disk`;
  return new CommandError(`no space left for ${path}: ${way}${kept === '' ? '' : `; ${kept}`}`, {
    cause: error,
  });
}
