/** Machine code for every kernel of every tiny model, for machines that this one need not be. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { tinyPlans } from '../../test/tiny-plans.ts';
import { InternalError } from '../platform/errors.ts';
import { machineOf, X64_ISAS } from '../targets/x64/isa.ts';
import { emitKernels } from './emit.ts';
import { kernelKey } from './kernel-spec.ts';

const RET = 0xc3;

for (const isa of X64_ISAS) {
  describe(`emitted code for ${isa}`, () => {
    const plans = tinyPlans(isa);

    it('serves every kernel of every tiny model: all fit the registers and find their params', () => {
      const seen = new Set<string>();
      for (const { plan } of plans) {
        if (plan.kernels.every((kernel) => seen.has(kernelKey(kernel)))) continue;
        for (const [i, { code, scratchBytes }] of emitKernels(plan, machineOf(isa)).entries()) {
          seen.add(kernelKey(plan.kernels[i]!));
          assert.ok(code.includes(RET));
          assert.ok(code.length < 64 * 1024, `${plan.kernels[i]!.family}: ${code.length} bytes`);
          assert.equal(scratchBytes % 64, 0);
        }
      }
      assert.ok(seen.size > 40, `${seen.size} kernels`);
    });

    it('is the same for the same plan', () => {
      const { plan } = plans[0]!;
      assert.deepEqual(emitKernels(plan, machineOf(isa)), emitKernels(plan, machineOf(isa)));
    });

    it('is refused for a kernel whose params the plan does not give', () => {
      const { plan } = plans[0]!;
      const [command, ...rest] = plan.commands;
      const [variant] = command!.variants;
      const broken = { ...command!, variants: [{ ...variant!, params: {} }] };
      assert.throws(
        () => emitKernels({ ...plan, commands: [broken, ...rest] }, machineOf(isa)),
        (error) => error instanceof InternalError && error.message.includes(command!.label),
      );
    });
  });
}
