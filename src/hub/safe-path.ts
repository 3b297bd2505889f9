/**
 * The one check of file names that come from outside (hub listings, wheels, what the user typed)
 * before they are joined to a folder of the cache.
 */

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const FORBIDDEN = /[\u0000-\u001f\\:*?"<>|]/;

/** Whether `path` stays inside whatever folder it is joined to: relative, `/` between parts, no `.` or `..` parts. */
export function isSafeRelativePath(path: string): boolean {
  if (path.length === 0 || path.length > 1024 || FORBIDDEN.test(path)) return false;
  return path
    .split('/')
    .every((part) => part !== '' && part !== '.' && part !== '..' && part.length <= 255);
}
