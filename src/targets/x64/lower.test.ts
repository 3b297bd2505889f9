import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import { KernelBuilder } from '../../kernels/builder.ts';
import { quantizeKernel } from '../../kernels/quantize.ts';
import { copyBlocksKernel } from '../../kernels/select-rows.ts';
import { machineOf, X64_ISAS } from './isa.ts';
import { lowerToX64, x64Listing } from './lower.ts';
import { KernelTooLargeError } from './register-allocation.ts';

const SNAPSHOTS = path.join(import.meta.dirname, '../../../test/fixtures/x64/listings');

describe('lowering to x64', () => {
  // A change of kernels, selection or registers shows as a diff of these; node --test-update-snapshots writes them.
  for (const isa of ['avx512', 'avx2'] as const) {
    it(`gives the listing that was reviewed, for ${isa}`, (t) => {
      const machine = machineOf(isa);
      const text = [copyBlocksKernel(machine), quantizeKernel(machine, { width: 32 })]
        .map((program) => `${program.name}\n${x64Listing(program)}\n`)
        .join('\n');
      t.assert.fileSnapshot(text, path.join(SNAPSHOTS, `${isa}.txt`), {
        serializers: [(value) => value],
      });
    });
  }

  it('lists the code that it emits', () => {
    const program = quantizeKernel(machineOf('avx2'), { width: 96 });
    const listed = x64Listing(program)
      .split('\n')
      .flatMap((line) => /^ {2}[0-9a-f]{4} {2}([0-9a-f]+) /.exec(line)?.[1] ?? [])
      .join('');
    assert.equal(listed, Buffer.from(lowerToX64(program)).toString('hex').slice(0, listed.length));
  });

  for (const isa of X64_ISAS) {
    it(`takes as many live vectors as ${isa} has registers, and refuses one more by name`, () => {
      const machine = machineOf(isa);
      /** Loads `count` vectors, then stores them, so that all live at once. */
      const holding = (count: number) => {
        const k = new KernelBuilder(`holds_${count}`, machine);
        const x = k.arg('x');
        const bytes = 4 * k.lanes;
        const held = Array.from({ length: count }, (_, i) => k.load(k.at(x, i * bytes)));
        for (const [i, vector] of held.entries()) k.store(k.at(x, (count - i) * bytes), vector);
        return k.finish();
      };
      assert.ok(lowerToX64(holding(machine.vectorRegisters)).length > 0);
      const tooMany = machine.vectorRegisters + 1;
      assert.throws(
        () => lowerToX64(holding(tooMany)),
        (error) => error instanceof KernelTooLargeError && error.message.includes(`${tooMany}`),
      );
    });
  }
});
