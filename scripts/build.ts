/**
 * Builds `dist/`, the JavaScript of the published package (Node strips no types under node_modules): tsc takes the types off and rewrites
 * the import extensions, then the files that are no TypeScript are copied. Development needs none of this.
 *
 *   node scripts/build.ts [--out FOLDER]
 */
import { spawnSync } from 'node:child_process';
import { cpSync, globSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values } = parseArgs({ options: { out: { type: 'string', default: join(root, 'dist') } } });
const out = values.out;

/** Copied as they are, from src/ to dist/. */
const STATIC_FOLDERS = ['server/page'];

rmSync(out, { recursive: true, force: true });
const tscManifest = createRequire(import.meta.url).resolve('typescript/package.json');
const project = join(root, 'tsconfig.build.json');
const result = spawnSync(
  process.execPath,
  [join(dirname(tscManifest), 'bin/tsc'), '-p', project, '--outDir', out],
  { stdio: 'inherit', cwd: root },
);
if (result.status !== 0) process.exit(result.status ?? 1);
for (const folder of STATIC_FOLDERS) {
  cpSync(join(root, 'src', folder), join(out, folder), { recursive: true });
}
// tsc rewrites imports but not the addresses of worker files.
for (const file of globSync('**/*.js', { cwd: out })) {
  const path = join(out, file);
  const text = readFileSync(path, 'utf8');
  const rewritten = text.replace(
    /(new URL\('\.{1,2}\/[^']+)\.ts(', import\.meta\.url\))/g,
    '$1.js$2',
  );
  if (rewritten !== text) writeFileSync(path, rewritten);
}
