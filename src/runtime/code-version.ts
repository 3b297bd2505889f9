/**
 * What version of hasten's own code this is, for keys of caches whose content our code decides: of built code a digest; of sources the package version with
 * the sizes and times of change of those that plan and emit, so that an edit is never answered from an older cache.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { codeFolder, isBuilt, packageManifest } from '../platform/package-files.ts';

const PARTS = ['graph', 'models', 'kernels', 'compiler', 'targets', 'runtime', 'tensor'] as const;

let version: string | undefined;

export function codeVersion(): string {
  version ??= computeVersion();
  return version;
}

function computeVersion(): string {
  if (isBuilt) return readFileSync(new URL('build-id', codeFolder), 'utf8');
  const parts = [packageManifest().version];
  for (const part of PARTS) {
    const folder = new URL(`${part}/`, codeFolder);
    for (const name of readdirSync(folder, { recursive: true }) as string[]) {
      if (!name.endsWith('.ts') || name.endsWith('.test.ts')) continue;
      const { size, mtimeMs } = statSync(fileURLToPath(new URL(name, folder)));
      parts.push(`${part}/${name} ${size} ${mtimeMs}`);
    }
  }
  return parts.join('\n');
}
