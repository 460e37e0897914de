'use strict';
// A client that does what it is told, line by line: see ../README.md.
//
//     node main.js [--with LIBRARY] [OPTIONS]
//
// LIBRARY is a file beside this one, pg if there is none, or an absolute path; OPTIONS are the pool's, as JSON, for
// example {"idleTimeoutMillis":0}.

const path = require('node:path');
const { run } = require('./loop');

const args = process.argv.slice(2);
const library = args[0] === '--with' ? args.splice(0, 2)[1] : 'pg';
const open = {
  pg: () => require('./pg'),
  frames: () => require('./frames'),
  marked: () => require('./marked'),
  knex: () => require('./knex'),
  sequelize: () => require('./sequelize'),
  typeorm: () => require('./typeorm'),
  drizzle: () => require('./drizzle'),
  prisma: () => require('./prisma'),
  postgres: () => require('./postgres'),
  mysql2: () => require('./mysql2'),
};
const load = path.isAbsolute(library) ? () => require(library) : open[library];
if (!load) throw new Error(`no library ${library}`);
run(load()(JSON.parse(args[0] ?? '{}')));
