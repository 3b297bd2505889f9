/** The golden models on machine code: every level of it that this machine has, on one thread and on two. */
import { goldenModelSuite } from '../../test/golden-models.ts';
import { nativeRunner, skipOf } from '../../test/native-models.ts';
import { X64_ISAS } from '../targets/x64/isa.ts';

for (const isa of X64_ISAS) {
  for (const threads of [1, 2]) {
    goldenModelSuite(
      `${isa}, threads: ${threads}`,
      (model, limits) => nativeRunner(model, { isa, precision: 'f32', threads }, limits),
      { skip: skipOf(isa) },
    );
  }
}
