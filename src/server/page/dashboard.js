/** The dashboard: asks the server for its figures once a second and draws them. Knows nothing of how they come to be. */
import { request, setKey } from './api.js';

const POLL_MS = 1000;
const MAX_CELLS = 480;
const SVG = 'http://www.w3.org/2000/svg';
const byId = (id) => document.getElementById(id);
const show = (id, text) => {
  byId(id).textContent = text;
};

function milliseconds(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const count = (number) => number.toLocaleString('en');

function fillBar(id, share) {
  byId(id).style.width = `${Math.min(100, 100 * share)}%`;
}

/** One value per second as an area. */
function drawChart(values) {
  const peak = Math.max(10, ...values);
  const [width, height] = [590, 110];
  const points = values.map((value, i) => {
    const x = (i * width) / (values.length - 1);
    return `${x.toFixed(1)},${(height - 2 - (value / peak) * (height - 10)).toFixed(1)}`;
  });
  const area = document.createElementNS(SVG, 'polygon');
  area.setAttribute('points', `0,${height} ${points.join(' ')} ${width},${height}`);
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', points.join(' '));
  byId('output-chart').replaceChildren(area, line);
  show('output-peak', `peak ${count(Math.max(...values))}`);
}

/** A cell stands for one block, or for several where there are many. */
function drawBlocks({ numBlocks, numFreeBlocks, numSealedBlocks }) {
  const numUsed = numBlocks - numFreeBlocks;
  // Blocks in use may be kept as well, so this many of the free ones are kept at least.
  const numKept = Math.max(0, Math.min(numFreeBlocks, numSealedBlocks - numUsed));
  const perCell = Math.ceil(numBlocks / MAX_CELLS);
  const map = byId('kv-map');
  const numCells = Math.ceil(numBlocks / perCell);
  while (map.childElementCount < numCells) map.append(document.createElement('i'));
  while (map.childElementCount > numCells) map.lastChild.remove();
  for (let i = 0; i < numCells; i++) {
    const block = i * perCell;
    const kind = block < numUsed ? 'used' : block < numUsed + numKept ? 'cached' : 'free';
    if (map.children[i].className !== kind) map.children[i].className = kind;
  }
  show('kv-usage', percent(numUsed / Math.max(1, numBlocks)));
  show('kv-scale', `· ${count(numBlocks)} blocks${perCell > 1 ? `, ${perCell} a square` : ''}`);
}

function fillTable(id, rows) {
  byId(id).tBodies[0].replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement('tr');
      for (const [i, text] of cells.entries()) {
        const cell = document.createElement(i === 0 ? 'th' : 'td');
        cell.textContent = text;
        row.append(cell);
      }
      return row;
    }),
  );
}

function drawEngine(engine, limits) {
  const { numRunning, numWaiting, numPreemptions, lastStep, speculation } = engine;
  show('running', count(numRunning));
  show('max-seqs', count(limits.maxSeqs));
  fillBar('batch-bar', numRunning / limits.maxSeqs);
  show('last-step', `${count(lastStep.numTokens)} tokens in ${milliseconds(lastStep.stepMs)}`);
  show('waiting', count(numWaiting));
  show('preemptions', count(numPreemptions));
  drawBlocks(engine);
  show('pinned', count(engine.numPinnedBlocks));
  show('offloaded', offloadText(engine.offload));
  const drafted = speculation?.numDraftTokens ?? 0;
  const accepted = drafted > 0 ? speculation.numAcceptedTokens / drafted : 0;
  show('accepted', drafted > 0 ? percent(accepted) : speculation === null ? 'off' : '–');
  show('drafted', count(drafted));
  fillBar('accepted-bar', accepted);
}

function offloadText(offload) {
  if (offload === null) return 'no offload';
  const { numMemoryBlocks, numDiskBlocks, diskFault } = offload;
  const onDisk = diskFault === null ? count(numDiskBlocks) : `${diskFault}: none`;
  return `${count(numMemoryBlocks)} in memory, ${onDisk} on disk`;
}

function drawTraffic(traffic) {
  const { outputTokensPerSecond: rates, promptTokens, cachedTokens, requests } = traffic;
  const lately = rates.slice(-5);
  show('output-rate', count(Math.round(lately.reduce((sum, rate) => sum + rate, 0) / 5)));
  drawChart(rates);
  const hitRate = promptTokens > 0 ? cachedTokens / promptTokens : 0;
  show('hit-rate', promptTokens > 0 ? percent(hitRate) : '–');
  fillBar('hit-bar', hitRate);
  show('cached-tokens', count(cachedTokens));
  show('prompt-tokens', count(promptTokens));
  show('finished', count(traffic.numFinished));
  show('queue-p50', milliseconds(traffic.queueMs?.p50));
  show('queue-p99', milliseconds(traffic.queueMs?.p99));
  fillTable(
    'latency',
    [
      ['time to first token', traffic.ttftMs],
      ['between tokens', traffic.itlMs],
      ['whole request', traffic.e2eMs],
    ].map(([name, all]) => [name, ...['p50', 'p90', 'p99'].map((p) => milliseconds(all?.[p]))]),
  );
  fillTable(
    'requests',
    requests
      .slice(0, 50)
      .map(({ id, ageMs, promptTokens: prompt, outputTokens, maxTokens, ttftMs }) => [
        id.slice(0, 8),
        milliseconds(ageMs),
        count(prompt),
        `${count(outputTokens)} of ${count(maxTokens)}`,
        milliseconds(ttftMs),
      ]),
  );
  byId('requests').hidden = requests.length === 0;
  byId('no-requests').hidden = requests.length > 0;
}

function showState(text, isGood) {
  const state = byId('state');
  state.textContent = text;
  state.classList.toggle('bad', !isGood);
}

async function refresh() {
  const response = await request('/dashboard/data').catch(() => undefined);
  if (response === undefined) {
    showState('the server does not answer', false);
    return;
  }
  byId('key-form').hidden = response.status !== 401;
  if (!response.ok) {
    showState(response.status === 401 ? 'a key is needed' : `error ${response.status}`, false);
    return;
  }
  const { state, model, limits, engine, traffic } = await response.json();
  showState(state, state === 'ready');
  show('model', model ?? '');
  if (engine !== null && limits !== null) drawEngine(engine, limits);
  drawTraffic(traffic);
}

byId('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  setKey(byId('api-key').value);
  void refresh();
});

for (;;) {
  if (!document.hidden) await refresh();
  await new Promise((resolve) => setTimeout(resolve, POLL_MS));
}
