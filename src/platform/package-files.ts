/**
 * Where the files of this package lie: beside the sources in a checkout, beside the built code in the published package. Knows no file but
 * package.json.
 */
import { readFileSync } from 'node:fs';

/** Whether this is built code (scripts/build.ts), whose files lie side by side in dist/, and not the sources. */
export const isBuilt: boolean = !import.meta.url.endsWith('.ts');

/** src/ or dist/. */
export const codeFolder: URL = new URL(isBuilt ? './' : '../', import.meta.url);

export const packageFolder: URL = new URL('../', codeFolder);

export interface PackageManifest {
  readonly version: string;
  /** Carried Node binaries: versions by package. */
  readonly optionalDependencies: Readonly<Record<string, string>>;
}

export function packageManifest(): PackageManifest {
  return JSON.parse(readFileSync(new URL('package.json', packageFolder), 'utf8'));
}
