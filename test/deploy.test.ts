/**
 * The files of deploy/ are sound: held to schemas, to each other and to hasten itself, and where they are installed, to kubeconform, promtool
 * and hadolint. Each of our own checks is also shown a file that is wrong.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import {
  boardComplaints,
  composeComplaints,
  flagComplaints,
  metricComplaints,
  referenceComplaints,
  safetyComplaints,
  schemaComplaints,
  seriesIn,
  seriesOf,
} from '../deploy/checks.ts';
import { dashboard } from '../deploy/grafana/make-dashboard.ts';
import { DEPLOY, type Manifest, readManifests, readYaml } from '../deploy/manifests.ts';
import { findTool, ownChecks, runTool, toolChecks } from '../deploy/validate.ts';

const scratch = mkdtempSync(join(tmpdir(), 'hasten-deploy-'));
after(() => rmSync(scratch, { recursive: true }));

const manifests = readManifests();

/** The manifests, one of them changed. */
function changed(file: string, change: (manifest: Manifest) => void): Manifest[] {
  const copy = structuredClone(manifests);
  const found = copy.find((manifest) => manifest.file === file);
  assert.ok(found, `no ${file}`);
  change(found);
  return copy;
}

// biome-ignore lint/suspicious/noExplicitAny: a test reaches into documents of any shape.
type Any = any;

describe('the files of deploy/', async () => {
  for (const { name, complaints } of await ownChecks()) {
    it(name, () => assert.deepEqual(complaints, []));
  }

  it('hold the board that its list of panels makes', () => {
    const stored = JSON.parse(readFileSync(join(DEPLOY, 'grafana/hasten.json'), 'utf8')) as unknown;
    assert.deepEqual(stored, JSON.parse(JSON.stringify(dashboard())));
  });

  for (const check of toolChecks(scratch)) {
    const skip = findTool(check.tool) === undefined ? `${check.tool} is not installed` : false;
    it(check.name, { skip }, () => assert.deepEqual(runTool(check).complaints, []));
  }
});

describe('the checks of deploy/', () => {
  it('find a field that Kubernetes does not know, and a value of the wrong type', () => {
    const misspelt = changed('kubernetes/deployment.yaml', (manifest: Any) => {
      manifest.spec.template.spec.containers[0].redinessProbe = {};
      manifest.spec.strategy.rollingUpdate.maxSurge = true;
    });
    const complaints = schemaComplaints(misspelt).join('\n');
    assert.match(complaints, /containers\/0 must NOT have additional properties.*redinessProbe/);
    assert.match(complaints, /maxSurge must be/);
    const route = changed('istio/virtualservice.yaml', (manifest: Any) => {
      manifest.spec.http[0].timeuot = '1s';
    });
    assert.match(schemaComplaints(route).join('\n'), /timeuot/);
  });

  it('find a kind that there is no schema for', () => {
    const other = changed('kubernetes/pdb.yaml', (manifest: Any) => {
      manifest.apiVersion = 'policy/v1beta1';
    });
    assert.match(
      schemaComplaints(other).join('\n'),
      /no schema poddisruptionbudget-policy-v1beta1/,
    );
  });

  it('find a wrong compose file', () => {
    const [compose] = readYaml('docker-compose.yaml') as Any[];
    compose.services.hasten.prots = [];
    assert.match(composeComplaints(compose).join('\n'), /services\/hasten/);
  });

  it('find names of what is not there', () => {
    const cases: [file: string, change: (manifest: Any) => void, complaint: RegExp][] = [
      [
        'kubernetes/deployment.yaml',
        (manifest) => {
          manifest.spec.template.spec.volumes[3].secret.secretName = 'other';
        },
        /no Secret "other"/,
      ],
      [
        'kubernetes/service.yaml',
        (manifest) => {
          manifest.spec.selector = { app: 'hasten' };
        },
        /service\.yaml: no pod is labelled app=hasten/,
      ],
      [
        'kubernetes/hpa.yaml',
        (manifest) => {
          manifest.spec.scaleTargetRef.name = 'other';
        },
        /no Deployment "other"/,
      ],
      [
        'knative/service.yaml',
        (manifest) => {
          manifest.spec.template.spec.containers[0].volumeMounts[0].name = 'other';
        },
        /no volume "other"/,
      ],
    ];
    for (const [file, change, complaint] of cases) {
      assert.match(referenceComplaints(changed(file, change)).join('\n'), complaint);
    }
  });

  it('find a container that is not confined, and a probe of the wrong path', () => {
    const loose = changed('kubernetes/deployment.yaml', (manifest: Any) => {
      const [container] = manifest.spec.template.spec.containers;
      container.securityContext = { ...container.securityContext, readOnlyRootFilesystem: false };
      container.livenessProbe.httpGet.path = '/readyz';
    });
    assert.deepEqual(safetyComplaints(loose), [
      'kubernetes/deployment.yaml: container hasten may write anywhere',
      'kubernetes/deployment.yaml: livenessProbe asks /readyz, expected /healthz',
    ]);
  });

  it('find a flag that hasten does not know', async () => {
    const help = '  --port <n>   port\n  -t, --threads <n>';
    const lines = [['serve', 'm', '--port=1', '--threads', '2', '--prot=1', '--thread=1']];
    assert.deepEqual(await flagComplaints(lines, async () => help), [
      'hasten serve knows no --prot',
      'hasten serve knows no --thread',
    ]);
  });

  it('find figures that nobody puts out', () => {
    const complaints = metricComplaints('# TYPE hasten:num_requests_waiting gauge\n').join('\n');
    assert.match(complaints, /rules\.yaml: nobody puts out hasten:engine_up/);
    assert.match(complaints, /hasten\.json: nobody puts out process_resident_memory_bytes/);
    assert.match(complaints, /hpa\.yaml: .* offers no hasten_kv_cache_usage_perc/);
    assert.doesNotMatch(complaints, /num_requests_waiting/);
  });

  it('find panels that lie on each other, ask for nothing, or for what is not there', () => {
    const board = structuredClone(dashboard()) as Any;
    board.panels[2].gridPos.x = 0;
    board.panels[3].targets = [];
    board.panels[4].targets[0].expr = 'up{job="$jbo"}';
    assert.deepEqual(boardComplaints(board), [
      'grafana/hasten.json: Running lies on Output',
      'grafana/hasten.json: Waiting asks for nothing',
      'grafana/hasten.json: TTFT P99: no variable $jbo',
    ]);
  });

  it('tell series from names of recording rules', () => {
    const asked = seriesIn('model:hasten_x:p99 / rate(hasten:a_bucket{b="c"}[5m]) > process_d');
    assert.deepEqual([...asked], ['hasten:a_bucket', 'process_d']);
    const known = seriesOf('# TYPE hasten:a histogram\n# TYPE b counter\n');
    assert.deepEqual([...known], ['hasten:a_bucket', 'hasten:a_sum', 'hasten:a_count', 'b']);
  });
});
