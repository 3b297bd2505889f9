/**
 * Loads `@mlc-ai/web-xgrammar`, with three repairs that are to go when the package no longer needs them (seen in 0.1.27, Node 26.10):
 *
 * - No `import` can load it: it is a script for CommonJS in a package that says `"type": "module"`, and fails on its first `require`.
 *   So it is compiled here as what it is.
 * - Its memory may grow to 2 GiB; a hostile grammar shall not get that much.
 * - What is wrong with a grammar it writes to the console before it aborts, so it gets a console of its own.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileFunction, constants } from 'node:vm';
import { InternalError } from '../platform/errors.ts';

export type XGrammar = typeof import('@mlc-ai/web-xgrammar');

/** Most memory of one instance: tokens of a vocabulary of 262,144 take 100 MiB, a schema of 30 fields some more. */
const MAX_HEAP_BYTES = 768 * 2 ** 20;
const HEAP_LIMIT = 'getHeapMax=()=>2147483648';

/** @param onMessage gets every line that the library writes, such as `[FATAL] file.cc:12: what is wrong` */
export function loadXGrammar(onMessage: (line: string) => void): XGrammar {
  const url = import.meta.resolve('@mlc-ai/web-xgrammar');
  const path = fileURLToPath(url);
  const source = readFileSync(path, 'utf8');
  if (!source.includes(HEAP_LIMIT)) {
    throw new InternalError(`${path}: its limit of memory is not where it was`);
  }
  const run = compileFunction(
    source.replace(HEAP_LIMIT, `getHeapMax=()=>${MAX_HEAP_BYTES}`),
    ['exports', 'module', 'require', '__filename', '__dirname', 'console'],
    { filename: path, importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER },
  );
  const write = (...words: unknown[]): void => onMessage(words.join(' '));
  const exports = {};
  const ownConsole = { log: write, warn: write, error: write };
  run(exports, { exports }, createRequire(url), path, dirname(path), ownConsole);
  return exports as XGrammar;
}
