import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import v8 from 'node:v8';
import vm from 'node:vm';
import { resolveTarget } from '../runtime/create-runner.ts';
import { inverseFactor, multiplyByInverse } from './factorize.ts';
import { type Matrix, MatrixMath, packRows, packTransposed, paddedColumns } from './matrix-math.ts';

let state = 1;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}

function fill(matrix: Matrix): void {
  for (let i = 0; i < matrix.rows; i++) {
    for (let j = 0; j < matrix.columns; j++) matrix.values[i * matrix.stride + j] = random();
  }
}

const isNative = resolveTarget('auto').kind === 'x64';
for (const target of ['auto', ...(isNative ? (['avx2'] as const) : []), 'reference'] as const) {
  describe(`MatrixMath, target ${target}`, () => {
    it('multiplies as the definition says, at ragged sizes and offsets', () => {
      using math = new MatrixMath(2, target);
      for (const [m, n, k] of [
        [1, 1, 1],
        [7, 33, 5],
        [40, 64, 128],
        [13, 96, 300],
      ] as const) {
        using a = math.matrix(m + 2, k + 3);
        using b = math.matrix(n, k + 2);
        using packed = math.packed(n, k + 3);
        using out = math.matrix(m + 1, n + 32);
        using residual = math.matrix(m + 1, n + 32);
        for (const each of [a, b, residual]) fill(each);
        packRows(packed, b, { row: 0, column: 0, rows: n, count: k + 2, sign: -1 });
        math.multiply({
          ...{ a, aRow: 2, aColumn: 3, b: packed, bColumn: 2, m, n, k },
          ...{ out, outRow: 1, outColumn: 32, residual },
        });
        for (let i = 0; i < m; i++) {
          for (let j = 0; j < n; j++) {
            let sum = residual.values[(1 + i) * residual.stride + 32 + j]!;
            for (let t = 0; t < k; t++) {
              sum -= a.values[(2 + i) * a.stride + 3 + t]! * b.values[j * b.stride + 2 + t]!;
            }
            const seen = out.values[(1 + i) * out.stride + 32 + j]!;
            assert.ok(Math.abs(seen - sum) < 1e-4, `${m} ${n} ${k}: [${i}, ${j}] ${seen} ${sum}`);
          }
        }
      }
    });

    it('multiplies packed matrices, whole and above the diagonal', () => {
      using math = new MatrixMath(2, target);
      for (const [m, n, k, isUpper] of [
        [1, 1, 1, false],
        [40, 33, 5, false],
        [70, 96, 300, false],
        [96, 96, 131, true],
        [33, 130, 128, true],
      ] as const) {
        const rows = 32 + Math.max(paddedColumns(m), paddedColumns(n));
        using whole = math.matrix(rows, k + 3);
        using packed = math.packed(rows, k + 3);
        using out = math.matrix(rows, rows);
        using residual = math.matrix(rows, rows);
        for (const each of [whole, residual]) fill(each);
        packRows(packed, whole, { row: 0, column: 0, rows, count: k + 3 });
        math.multiplyPacked({
          ...{ a: packed, aRow: 32, b: packed, bRow: 32, m, n, k, isUpper },
          ...{ out, outRow: 2, outColumn: 32, residual },
        });
        for (let i = 0; i < m; i++) {
          for (let j = isUpper ? i : 0; j < n; j++) {
            let sum = residual.values[(2 + i) * residual.stride + 32 + j]!;
            for (let t = 0; t < k; t++) {
              const [a, b] = [(32 + i) * whole.stride + t, (32 + j) * whole.stride + t];
              sum += whole.values[a]! * whole.values[b]!;
            }
            const seen = out.values[(2 + i) * out.stride + 32 + j]!;
            assert.ok(Math.abs(seen - sum) < 1e-4, `${m} ${n} ${k}: [${i}, ${j}] ${seen} ${sum}`);
          }
        }
        const below = out.values.subarray((2 + paddedColumns(m)) * out.stride);
        assert.ok(below.every((value) => value === 0));
        if (k <= 128) continue;
        const room = { out, residual: out };
        assert.throws(() => math.multiplyPacked({ a: packed, b: packed, m, n, k, ...room }));
      }
    });

    it('gives zeros where there was something before', () => {
      using math = new MatrixMath(1, target);
      for (const size of [600, 601, 1100, 300]) {
        using matrix = math.matrix(1, size);
        assert.ok(matrix.values.every((value) => value === 0));
        matrix.values.fill(7);
        matrix[Symbol.dispose]();
      }
    });

    it('adds to its own output', () => {
      using math = new MatrixMath(2, target);
      using a = math.matrix(50, 128);
      using w = math.matrix(50, 96);
      using u = math.matrix(128, 96);
      using packed = math.packed(96, 128);
      for (const each of [a, w, u]) fill(each);
      const before = w.values.slice();
      packTransposed(packed, 0, u, { row: 0, column: 0, count: 128 });
      math.multiply({ a, b: packed, m: 50, n: 96, k: 128, out: w, residual: w });
      for (let i = 0; i < 50; i++) {
        for (let j = 0; j < 96; j++) {
          let sum = before[i * w.stride + j]!;
          for (let t = 0; t < 128; t++) sum += a.values[i * 128 + t]! * u.values[t * u.stride + j]!;
          assert.ok(Math.abs(w.values[i * w.stride + j]! - sum) < 1e-4);
        }
      }
    });

    it('multiplyByInverse: A Uᵀ U, wider than what is done at once', () => {
      using math = new MatrixMath(2, target);
      const [rows, n] = [3, 520];
      using a = math.matrix(rows, n);
      using u = math.matrix(paddedColumns(n), n);
      fill(a);
      for (let i = 0; i < n; i++) {
        for (let j = i; j < n; j++) u.values[i * u.stride + j] = random() / 16;
      }
      const sums = Array.from({ length: rows * n }, () => 0);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < n; i++) {
          let along = 0;
          for (let j = i; j < n; j++) {
            along += a.values[row * a.stride + j]! * u.values[i * u.stride + j]!;
          }
          for (let j = i; j < n; j++) sums[row * n + j]! += along * u.values[i * u.stride + j]!;
        }
      }
      multiplyByInverse(math, a, u);
      for (const [at, sum] of sums.entries()) {
        const seen = a.values[Math.floor(at / n) * a.stride + (at % n)]!;
        assert.ok(Math.abs(seen - sum) < 1e-3, `${at}: ${seen} ${sum}`);
      }
    });

    for (const n of [32, 128, 160, 416]) {
      it(`inverseFactor: Uᵀ U is the inverse, n = ${n}`, () => {
        using math = new MatrixMath(2, target);
        using x = math.matrix(n, 2 * n);
        fill(x);
        using h = math.matrix(n, n);
        for (let i = 0; i < n; i++) {
          for (let j = 0; j < n; j++) {
            let sum = i === j ? 0.05 * n : 0;
            for (let t = 0; t < 2 * n; t++)
              sum += x.values[i * x.stride + t]! * x.values[j * x.stride + t]!;
            h.values[i * h.stride + j] = sum;
          }
        }
        const original = h.values.slice();
        using u = inverseFactor(math, h, n)!;
        // H · Uᵀ U = 1, checked on some columns
        for (const column of [0, 1, n >> 1, n - 1]) {
          const z = new Float64Array(n);
          for (let j = 0; j < n; j++) {
            for (let i = 0; i < n; i++) {
              z[j]! += u.values[i * u.stride + j]! * u.values[i * u.stride + column]!;
            }
          }
          for (let i = 0; i < n; i++) {
            let sum = 0;
            for (let j = 0; j < n; j++) sum += original[i * h.stride + j]! * z[j]!;
            assert.ok(Math.abs(sum - (i === column ? 1 : 0)) < 2e-3, `[${i}, ${column}] ${sum}`);
          }
        }
        assert.equal(u.values[(n - 1) * u.stride], 0);
      });
    }

    it('gives memory back under the garbage collector without losing a product', async () => {
      v8.setFlagsFromString('--expose-gc');
      const collect = vm.runInNewContext('gc') as () => void;
      // Two teams that take turns, as a model and the products on its inputs do.
      using first = new MatrixMath(2, target);
      using second = new MatrixMath(2, target);
      for (let round = 0; round < 120; round++) {
        const math = round % 2 === 0 ? first : second;
        const [m, n, k] = [1 + (round % 17), 1 + ((round * 7) % 90), 1 + ((round * 31) % 200)];
        using a = math.matrix(m, k);
        using packed = math.packed(n, k);
        using out = math.matrix(m, n);
        a.values.fill(1 + (round % 3));
        packed.values.fill(2);
        math.multiply({ a, b: packed, m, n, k, out });
        const expected = 2 * k * (1 + (round % 3));
        assert.equal(out.values[(m - 1) * out.stride + n - 1], expected);
        if (round % 10 !== 0) continue;
        collect();
        // Threads that have nothing to do come out of native code meanwhile.
        await sleep(round % 40 === 0 ? 60 : 1);
      }
    });

    it('inverseFactor says when the matrix is not positive definite', () => {
      using math = new MatrixMath(1, target);
      using h = math.matrix(64, 64);
      for (let i = 0; i < 64; i++) h.values[i * h.stride + i] = i === 40 ? -1 : 1;
      assert.equal(inverseFactor(math, h, 64), null);
    });
  });
}
