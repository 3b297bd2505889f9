/** GET /metrics: figures for Prometheus. GET /dashboard/data: figures for people, as JSON. */
import type { EngineStats } from '../../engine/engine-stats.ts';
import type { ServedModel } from '../served-model.ts';
import type { Route } from './context.ts';

/** An engine that is being started answers nothing; what is known without it is answered all the same. */
async function engineStats({ state }: ServedModel): Promise<EngineStats | null> {
  if (state.kind !== 'ready') return null;
  return state.model.stats().catch(() => null);
}

export const metricsRoute: Route = (server, { served, telemetry }) => {
  server.get('/metrics', async (_request, reply) => {
    const stats = await engineStats(served);
    telemetry.metrics.setEngineUp(stats !== null);
    if (stats !== null) telemetry.metrics.observeEngine(stats);
    const { text, contentType } = await telemetry.metrics.render();
    return reply.header('content-type', contentType).send(text);
  });

  server.get('/dashboard/data', async (_request, reply) => {
    const stats = await engineStats(served);
    const { state } = served;
    reply.header('cache-control', 'no-store');
    return {
      state: served.outage ?? state.kind,
      model: served.names[0] ?? null,
      limits: state.kind === 'ready' ? limitsOf(state.model) : null,
      engine: stats,
      traffic: telemetry.traffic,
    };
  });
};

function limitsOf({
  limits,
  maxModelLen,
}: Extract<ServedModel['state'], { kind: 'ready' }>['model']) {
  const { maxSeqs, numBlocks, blockSize } = limits;
  return { maxSeqs, numBlocks, blockSize, maxModelLen };
}
