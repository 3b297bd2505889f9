/** The command line of a benchmark as others can type it: paths of this machine are cut to the file's name. */
import { basename, isAbsolute } from 'node:path';

export function shownCommand(script: string, args: readonly string[] = process.argv.slice(2)) {
  const shown = args.map((arg) => {
    const [, name, path] = /^([^=]*=)?(.*)$/s.exec(arg) ?? [];
    return isAbsolute(path ?? '') ? `${name ?? ''}${basename(path!)}` : arg;
  });
  return ['node', script, ...shown].join(' ');
}
