// Whether objects of operators are what their schemas say; one line each. `foreign.mjs TOOLS < OBJECTS.json`
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const models = join(process.argv[2], 'node_modules/@kubernetes-models');
const known = {
    PodMonitor: ['prometheus-operator/monitoring.coreos.com/v1', 'PodMonitor'],
    PrometheusRule: ['prometheus-operator/monitoring.coreos.com/v1', 'PrometheusRule'],
    Certificate: ['cert-manager/cert-manager.io/v1', 'Certificate'],
};
for (const object of JSON.parse(readFileSync(0, 'utf8'))) {
    const [module, name] = known[object.kind];
    try {
        const { [name]: Model } = await import(pathToFileURL(join(models, module, 'index.js')));
        new Model(object).validate();
        console.log(object.kind, object.metadata.name, 'ok');
    } catch (error) {
        console.log(object.kind, object.metadata.name, String(error.message).replaceAll('\n', ' '));
    }
}
