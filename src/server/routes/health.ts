/** GET /healthz: is the process fine. GET /readyz: would a request be answered now. */
import type { Route } from './context.ts';

export const healthRoute: Route = (server, { served }) => {
  server.get('/healthz', async (_request, reply) => {
    const { state } = served;
    if (state.kind === 'failed') return reply.code(503).send({ status: `failed: ${state.reason}` });
    return { status: 'ok' };
  });
  server.get('/readyz', async (_request, reply) => {
    const { state } = served;
    switch (state.kind) {
      case 'ready':
        if (served.outage !== null) return reply.code(503).send({ status: served.outage });
        return { status: 'ok', models: state.names };
      case 'loading':
        return reply.code(503).send({ status: state.phase });
      case 'failed':
        return reply.code(503).send({ status: `failed: ${state.reason}` });
      case 'closing':
        return reply.code(503).send({ status: 'shutting down' });
      default:
        return state satisfies never;
    }
  });
};
