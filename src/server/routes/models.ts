/** GET /v1/models and /v1/models/{id}: which names are served. */
import type { FastifyRequest } from 'fastify';
import { ApiError } from '../errors.ts';
import type { ServedModel } from '../served-model.ts';
import type { Route } from './context.ts';

export const modelsRoute: Route = (server, { served }) => {
  server.get('/v1/models', async () => ({
    object: 'list',
    data: served.names.map((name) => modelObject(served, name)),
  }));
  // Names such as user/repo hold slashes.
  server.get('/v1/models/*', async (request: FastifyRequest<{ Params: { '*': string } }>) => {
    const name = request.params['*'];
    if (!served.names.includes(name)) {
      throw new ApiError(404, `The model "${name}" does not exist here`, {
        param: 'model',
        code: 'model_not_found',
      });
    }
    return modelObject(served, name);
  });
};

function modelObject(served: ServedModel, name: string) {
  const { state } = served;
  const length = state.kind === 'ready' ? { max_model_len: state.model.maxModelLen } : {};
  return { id: name, object: 'model', created: served.createdS, owned_by: 'hasten', ...length };
}
