/** What every plan keeps to, read from the plans of all tiny models. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { tinyPlans } from '../../test/tiny-plans.ts';
import { X64_ISAS } from '../targets/x64/isa.ts';
import type { ParamSource, Plan } from './plan.ts';

/** Params of a kind, with the command that they belong to. */
function paramsOf<K extends ParamSource['kind']>(plan: Plan, kind: K) {
  return plan.commands.flatMap((command, index) =>
    command.variants.flatMap(({ params }) =>
      Object.entries(params).flatMap(([name, source]) =>
        source.kind === kind
          ? [
              {
                name: `${command.label} ${name}`,
                index,
                source: source as ParamSource & { kind: K },
              },
            ]
          : [],
      ),
    ),
  );
}

interface Span {
  readonly start: number;
  readonly end: number;
}

function assertApart(spans: readonly Span[], what: string): void {
  const ordered = spans.toSorted((a, b) => a.start - b.start);
  for (const [i, { start }] of ordered.entries()) {
    if (i > 0) assert.ok(ordered[i - 1]!.end <= start, `${what} overlap at ${start}`);
  }
}

for (const isa of X64_ISAS) {
  describe(`plans for ${isa}`, () => {
    const plans = tinyPlans(isa);

    it('are plain data: the same after a round trip through JSON', () => {
      for (const { plan } of plans) assert.deepEqual(JSON.parse(JSON.stringify(plan)), plan);
    });

    it('have for each command a variant for every number of rows, and never two', () => {
      for (const { name, plan } of plans) {
        for (const { label, variants } of plan.commands) {
          let next = 0;
          for (const { minRows, maxRows } of variants) {
            assert.ok(minRows <= next && maxRows >= minRows, `${name}, ${label}: rows ${next}`);
            next = maxRows + 1;
          }
          assert.ok(next > plan.limits.maxTokens, `${name}, ${label}: no rows above ${next - 1}`);
        }
      }
    });

    it('keep buffers apart that live at once, inside the arena, on cache lines', () => {
      for (const { name, plan } of plans) {
        for (const [index] of plan.commands.entries()) {
          const live = plan.buffers.filter(
            ({ firstCommand, lastCommand }) => firstCommand <= index && index <= lastCommand,
          );
          assertApart(
            live.map(({ offsetBytes: start, sizeBytes }) => ({ start, end: start + sizeBytes })),
            `${name}: buffers of command ${index}`,
          );
        }
        for (const { label, offsetBytes, sizeBytes, strideBytes } of plan.buffers) {
          assert.equal(offsetBytes % 64, 0, label);
          assert.equal(strideBytes % 64, 0, label);
          assert.ok(offsetBytes + sizeBytes <= plan.arenaBytes, label);
        }
      }
    });

    it('touch buffers only while they live, and inside a row', () => {
      for (const { plan } of plans) {
        for (const { name, index, source } of paramsOf(plan, 'buffer')) {
          const buffer = plan.buffers[source.buffer]!;
          assert.ok(buffer.firstCommand <= index && index <= buffer.lastCommand, name);
          assert.ok(source.offsetBytes >= 0 && source.offsetBytes < buffer.strideBytes, name);
        }
      }
    });

    it('have room for the rows of the largest step', () => {
      for (const { plan } of plans) {
        for (const { label, rows, sizeBytes, strideBytes } of plan.buffers) {
          const { maxTokens, maxLogitRows } = plan.limits;
          const ofStep = rows === 'T' ? maxTokens : maxLogitRows;
          const numRows = typeof rows === 'number' ? rows : ofStep;
          assert.ok(sizeBytes >= numRows * strideBytes, label);
        }
        const { logits, sliceMax, sliceExpSum } = plan;
        const numSlices = Math.ceil(plan.vocabSize / plan.sliceSize);
        for (const [result, width] of [
          [logits, plan.vocabSize],
          [sliceMax, numSlices],
          [sliceExpSum, numSlices],
        ] as const) {
          const { strideBytes, lastCommand } = plan.buffers[result.buffer]!;
          assert.ok(strideBytes >= 4 * width);
          assert.equal(lastCommand, plan.commands.length - 1, 'lives until the step is over');
        }
      }
    });

    it('keep weights apart in the image, in the order in which a step reads them', () => {
      for (const { name, plan } of plans) {
        const spans = plan.weights.map(({ offsetBytes: start, sizeBytes }) => ({
          start,
          end: start + sizeBytes,
        }));
        assertApart(spans, `${name}: weights`);
        for (const { start, end } of spans) {
          assert.equal(start % 64, 0);
          assert.ok(end <= plan.weightBytes);
        }
        const firstUses = [...new Set(paramsOf(plan, 'weight').map(({ source }) => source.weight))];
        const offsets = firstUses.map((weight) => plan.weights[weight]!);
        const matrices = offsets.filter(({ kind }) => kind === 'matrix');
        const inOrder = matrices.toSorted((a, b) => a.offsetBytes - b.offsetBytes);
        assert.deepEqual(matrices, inOrder, `${name}: matrices in order of use`);
      }
    });

    it('refer to kernels, weights, layers and tables that there are', () => {
      for (const { plan } of plans) {
        const used = new Set(
          plan.commands.flatMap(({ variants }) => variants.map((v) => v.kernel)),
        );
        assert.equal(used.size, plan.kernels.length, 'each kernel is used');
        for (const kernel of used) assert.ok(plan.kernels[kernel]);
        for (const { source } of paramsOf(plan, 'weight')) assert.ok(plan.weights[source.weight]);
        for (const { source } of paramsOf(plan, 'cosSin')) assert.ok(plan.ropes[source.table]);
        for (const { source } of paramsOf(plan, 'cache')) {
          assert.ok(source.layer >= 0 && source.layer < plan.kvCache.numLayers);
        }
      }
    });

    it('store a tied embedding once', () => {
      const { plan } = plans.find(({ name }) => name === 'smollm-f32.gguf')!;
      const tables = plan.weights.filter(({ ref }) =>
        ref.parts.some(({ tensor }) => tensor === 'model.embed_tokens.weight'),
      );
      assert.equal(tables.length, 1);
      const index = plan.weights.indexOf(tables[0]!);
      const users = paramsOf(plan, 'weight').filter(({ source }) => source.weight === index);
      assert.deepEqual(
        [...new Set(users.map(({ index: command }) => plan.commands[command]!.op))],
        ['embed', 'linear'],
      );
    });

    it('use int8 activations only in fast precision, and only for quantized weights', () => {
      for (const { name, precision, plan } of plans) {
        const usesInt8 = plan.kernels.some(({ shape }) => JSON.stringify(shape).includes('"q8"'));
        assert.equal(
          usesInt8,
          precision === 'fast' && /q\d_\d/.test(name),
          `${name}, ${precision}`,
        );
        assert.equal(plan.kvCache.kvType, precision === 'fast' ? 'f16' : 'f32');
      }
    });

    it('name kernels once, however many layers use them', () => {
      for (const { name, plan } of plans) {
        const keys = plan.kernels.map((kernel) => JSON.stringify(kernel));
        assert.equal(new Set(keys).size, keys.length, name);
        assert.ok(plan.kernels.length < plan.commands.length, name);
      }
    });
  });
}
