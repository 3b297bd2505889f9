/**
 * Rewrites test/fixtures/x64/assembler-golden.txt with the bytes GNU `as` gives for every golden
 * instruction. Run by hand where binutils is installed, after changing the instruction tables:
 * `node src/targets/x64/make-assembler-golden.ts`. Prints what differs from our own bytes.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { goldenInstructions } from './assembler-golden-cases.ts';

const FIXTURE = new URL('../../../test/fixtures/x64/assembler-golden.txt', import.meta.url);

/** Bytes of each line as `as` encodes it, from its listing (`-aln` prints offset, bytes, source). */
function assemble(lines: readonly string[]): string[] {
  const dir = mkdtempSync(join(tmpdir(), 'hasten-golden-'));
  try {
    const source = join(dir, 'golden.s');
    const listing = join(dir, 'golden.lst');
    writeFileSync(source, `.intel_syntax noprefix\n${lines.join('\n')}\n`);
    const args = ['--listing-lhs-width=8', `-aln=${listing}`, '-o', join(dir, 'o'), source];
    execFileSync('as', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    const hex: string[] = new Array(lines.length).fill('');
    for (const line of readFileSync(listing, 'utf8').split('\n')) {
      const m = /^\s*(\d+) [0-9a-f]{4,} ((?:[0-9A-F]+ ?)+)/.exec(line);
      if (m) hex[Number(m[1]) - 2] += m[2]!.replaceAll(' ', '').toLowerCase();
    }
    return hex;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const ours = goldenInstructions();
const theirs = assemble(ours.map((i) => i.text));
let numDifferent = 0;
ours.forEach((instruction, i) => {
  const hex = Buffer.from(instruction.bytes).toString('hex');
  if (hex === theirs[i]) return;
  if (numDifferent++ < 40) console.log(`${instruction.text}\n  as   ${theirs[i]}\n  ours ${hex}`);
});
mkdirSync(new URL('.', FIXTURE), { recursive: true });
writeFileSync(FIXTURE, `${ours.map((o, i) => `${theirs[i]} ${o.text}`).join('\n')}\n`);
console.log(`${ours.length} instructions, ${numDifferent} differ from GNU as`);
