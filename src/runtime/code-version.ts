/**
 * What version of hasten's own code this is, for keys of caches whose content our code decides: the package version; in a checkout also the sizes and times
 * of change of the sources that plan and emit, so that an edit is never answered from an older cache.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const PARTS = ['graph', 'models', 'kernels', 'compiler', 'targets', 'runtime', 'tensor'] as const;

let version: string | undefined;

export function codeVersion(): string {
  version ??= computeVersion();
  return version;
}

function computeVersion(): string {
  const root = new URL('../', import.meta.url);
  const manifest = readFileSync(new URL('../package.json', root), 'utf8');
  const parts = [String((JSON.parse(manifest) as { version: string }).version)];
  if (!import.meta.url.endsWith('.ts')) return parts[0]!;
  for (const part of PARTS) {
    const folder = new URL(`${part}/`, root);
    for (const name of readdirSync(folder, { recursive: true }) as string[]) {
      if (!name.endsWith('.ts') || name.endsWith('.test.ts')) continue;
      const { size, mtimeMs } = statSync(fileURLToPath(new URL(name, folder)));
      parts.push(`${part}/${name} ${size} ${mtimeMs}`);
    }
  }
  return parts.join('\n');
}
