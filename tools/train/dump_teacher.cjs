// Write the MobileNetV2 inside the npm package nsfwjs as model.json + model.bin: node dump_teacher.cjs PACKAGE_FOLDER OUT
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const [packageFolder, out] = process.argv.slice(2);
const folder = path.join(packageFolder, 'package', 'dist', 'models', 'mobilenet_v2');

/** The one value a bundled module exports, whatever it calls it. */
function only(module) {
  return (
    module.modelJson ?? module.default ?? (typeof module === 'string' ? module : Object.values(module)[0])
  );
}

const model = require(path.resolve(folder, 'model.min.js'));
const weights = only(require(path.resolve(folder, 'group1-shard1of1.min.js')));
fs.writeFileSync(path.join(out, 'model.json'), JSON.stringify(model.modelJson ?? model.default ?? model));
fs.writeFileSync(path.join(out, 'model.bin'), Buffer.from(weights, 'base64'));
