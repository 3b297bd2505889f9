import assert from 'node:assert/strict';
import { it } from 'node:test';
import { ColumnOrder, orderByGroup } from './column-order.ts';

it('puts the columns of each group side by side, as they come', () => {
  assert.deepEqual([...orderByGroup(Int32Array.of(1, 0, 2, 1, 2, 0), 3)!], [1, 5, 0, 3, 2, 4]);
});

it('knows no order where groups differ in size', () => {
  assert.equal(orderByGroup(Int32Array.of(0, 0, 0, 1), 2), null);
  assert.equal(orderByGroup(Int32Array.of(0, 0, 1), 2), null);
  assert.equal(orderByGroup(Int32Array.of(0, 0, 2, 2, 2, 0), 3), null);
});

it('brings stored rows back, and is its digest as JSON', () => {
  const order = new ColumnOrder(Int32Array.of(2, 0, 1));
  assert.deepEqual([...order.toNatural(Float32Array.of(7, 5, 6, 9, 3, 8))], [5, 6, 7, 3, 8, 9]);
  assert.equal(JSON.stringify(order), `{"digest":"${order.digest}"}`);
  assert.equal(new ColumnOrder(Int32Array.of(2, 0, 1)).digest, order.digest);
  assert.notEqual(new ColumnOrder(Int32Array.of(2, 1, 0)).digest, order.digest);
});
