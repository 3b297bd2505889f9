/**
 * Builds `dist/`: what the published package runs (Node strips no types under node_modules), and what the launcher takes in a checkout for as
 * long as no source has changed since. Development needs none of this.
 *
 * The code is bundled: a start reads a dozen files instead of a few hundred, which took most of it. Libraries that every start needs
 * are bundled with it (their licences go into dist/LICENSES.txt), all others stay imports.
 *
 *     *.js, *.d.ts    entries by name, everything else in chunks beside them; declarations by folder, as the sources
 *     build-id        digest of the code, for keys of caches
 *     sources.json    [file, size, time of change]: of what it was made; not published
 *
 *   node scripts/build.ts [--out FOLDER] [--no-types]
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  globSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  type ChunkingContext,
  type CodeSplittingGroup,
  type OutputChunk,
  rolldown,
} from 'rolldown';

/** From src/. Workers are found by their names beside whoever starts them, so the names must differ. */
const ENTRIES = [
  'index.ts',
  'cli/main.ts',
  'app/engine-worker.ts',
  'app/engine-process.ts',
  'app/cost-process.ts',
  'grammar/grammar-worker.ts',
  'compress/encode-worker.ts',
];
/**
 * What `hasten run` loads before the first token, from src/. Its modules go into five chunks, by who needs them; left to itself the bundler makes 70 of
 * them, and each takes a start a good part of a millisecond.
 */
const MAIN = 'cli/main.ts';
const PROGRAM = ['cli/program.ts'];
const COMMAND = [
  'cli/commands/run.ts',
  'app/running-model.ts',
  'engine/engine-client.ts',
  'engine/protocol.ts',
];
const ENGINE = ['app/engine-worker.ts'];
const BUNDLED = ['commander', '@huggingface/jinja'];
/** Copied as they are, from src/. */
const STATIC_FOLDERS = ['server/page'];

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, 'dist') },
    'no-types': { type: 'boolean', default: false },
  },
});
const require = createRequire(import.meta.url);

/** @returns the files that it was made of */
async function bundle(out: string): Promise<string[]> {
  const input = ENTRIES.map((name) => join(root, 'src', name));
  const build = await rolldown({
    cwd: root,
    input,
    platform: 'node',
    preserveEntrySignatures: 'allow-extension', // Groups ask for it.
    external: (id) => !/^[./]/.test(id) && !BUNDLED.includes(id),
    plugins: [
      { name: 'worker-addresses', transform: { handler: withBuiltAddresses } },
      { name: 'builtin-modules', renderChunk: withPlainBuiltins },
    ],
  });
  const { output } = await build.write({
    dir: out,
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: '[name]-[hash].js',
    keepNames: true, // Errors are named by their classes.
    comments: false, // A fifth of the text; without them nearly all of it is ASCII, which is read faster.
    codeSplitting: { groups: startGroups() },
  });
  await build.close();
  const chunks = output.filter((part): part is OutputChunk => part.type === 'chunk');
  const hash = createHash('sha256');
  for (const { fileName, code } of chunks.toSorted((a, b) => (a.fileName < b.fileName ? -1 : 1))) {
    hash.update(`${fileName}\n${code}\n`);
  }
  writeFileSync(join(out, 'build-id'), hash.digest('hex'));
  return chunks.flatMap(({ moduleIds }) => moduleIds.filter((id) => existsSync(id)));
}

type ModuleTest = (id: string, context: ChunkingContext) => boolean;

/** Whether one of the modules is `id` or imports it, at any remove. */
function reachedFrom(names: readonly string[]): ModuleTest {
  let reached: Set<string> | undefined;
  return (id, context) => {
    if (reached === undefined) {
      reached = new Set(names.map((name) => join(root, 'src', name)));
      for (const each of reached) {
        for (const to of context.getModuleInfo(each)?.importedIds ?? []) reached.add(to);
      }
    }
    return reached.has(id);
  };
}

/** In order: a module goes into the first that takes it. */
function startGroups(): CodeSplittingGroup[] {
  const entries = new Set(ENTRIES.map((name) => join(root, 'src', name)));
  const ofMain = reachedFrom([MAIN]);
  const ofProgram = reachedFrom(PROGRAM);
  const ofCommand = reachedFrom(COMMAND);
  const ofEngine = reachedFrom(ENGINE);
  const groups: Readonly<Record<string, ModuleTest>> = {
    base: (id, of) => ofMain(id, of) || (ofProgram(id, of) && ofEngine(id, of)),
    program: ofProgram,
    model: (id, of) => ofCommand(id, of) && ofEngine(id, of),
    command: ofCommand,
    engine: ofEngine,
  };
  return Object.entries(groups).map(([name, has]) => ({
    debugName: name,
    // Entries stay by themselves: they may wait for chunks that need one of these.
    name: (id, of) => (!entries.has(id) && has(id, of) ? name : null),
    includeDependenciesRecursively: false,
  }));
}

/** Bundlers rewrite imports but not the addresses of worker files. */
function withBuiltAddresses(code: string): string {
  return code.replace(/new URL\('\.\/([^']+)\.ts', import\.meta\.url\)/g, (_, name: string) => {
    return `new URL('./${basename(name)}.js', import.meta.url)`;
  });
}

/** Modules of Node's that a start may do without; what is imported of them are functions. */
const LAZY_BUILTINS = ['node:crypto', 'node:fs/promises', 'node:zlib'];

/**
 * An import of a module of Node's reads all that it exports, in every thread: of `node:fs` that loads streams and promises, of `node:util` a diff and MIME types.
 * `getBuiltinModule` gives the module as it is, and some modules are asked for by the first call of one of their functions. A Node that has no such
 * function is told by the program that it is too old.
 */
function withPlainBuiltins(code: string): string {
  const plain = (id: string): string => `(globalThis.process.getBuiltinModule?.("${id}") ?? {})`;
  return code
    .replace(/\b__require\("(node:[\w/]+)"\)/g, (_, id: string) => plain(id))
    .replace(/^import (\w+), (\{.*\}) from ("node:.*";)$/gm, 'import $1 from $3\nimport $2 from $3')
    .replace(/^import \{(.*)\} from "(node:[\w/]+)";$/gm, (_, list: string, id: string) => {
      const names = list.split(',').map((name) => name.trim().split(' as '));
      if (!LAZY_BUILTINS.includes(id)) {
        return `const {${names.map((name) => name.join(': ')).join(', ')}} = ${plain(id)};`;
      }
      const lazy = names.map(([name, own = name]) => {
        return `${own} = (...args) => ${plain(id)}.${name}(...args)`;
      });
      return `const ${lazy.join(', ')};`;
    })
    .replace(/^import (?:\* as )?(\w+) from "(node:[\w/]+)";$/gm, (_, name: string, id: string) => {
      const get = `get: (_, key) => ${plain(id)}[key]`;
      return `const ${name} = ${LAZY_BUILTINS.includes(id) ? `new Proxy({}, { ${get} })` : plain(id)};`;
    });
}

function copyStatic(out: string): string[] {
  return STATIC_FOLDERS.flatMap((folder) => {
    const from = join(root, 'src', folder);
    cpSync(from, join(out, folder), { recursive: true });
    return globSync('**/*.*', { cwd: from }).map((name) => join(from, name));
  });
}

function writeLicenses(out: string): void {
  const texts = BUNDLED.map((name) => {
    let folder = dirname(require.resolve(name));
    while (!existsSync(join(folder, 'LICENSE'))) folder = dirname(folder);
    return `${name}\n\n${readFileSync(join(folder, 'LICENSE'), 'utf8')}`;
  });
  writeFileSync(join(out, 'LICENSES.txt'), texts.join('\n\n'));
}

function writeTypes(out: string): void {
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin/tsc');
  const args = [tsc, '-p', join(root, 'tsconfig.build.json'), '--outDir', out];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit', cwd: root });
  if (status !== 0) process.exit(status ?? 1);
}

function stamp(file: string): readonly [string, number, number] {
  const { size, mtimeMs } = statSync(file);
  return [relative(root, file), size, mtimeMs];
}

const folder = mkdtempSync(`${values.out}.`);
const old = `${folder}.old`;
try {
  const sources = [fileURLToPath(import.meta.url), ...(await bundle(folder))];
  sources.push(...copyStatic(folder));
  writeLicenses(folder);
  if (!values['no-types']) writeTypes(folder);
  writeFileSync(join(folder, 'sources.json'), JSON.stringify(sources.map(stamp)));
  // Running programs may still load chunks: of the same code they have the same names, so `dist/` is never away for long.
  if (existsSync(values.out)) renameSync(values.out, old);
  renameSync(folder, values.out);
} finally {
  for (const left of [folder, old]) rmSync(left, { recursive: true, force: true });
}
