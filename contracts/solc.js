#!/usr/bin/env node
// The pinned wasm compiler, as compile.js uses it and, run as a program, as the `solc` command that forge calls
// (only `--version` and `--standard-json`): so tests run on the very compiler that made the committed bytecode.
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const LIBRARIES = path.join(__dirname, "node_modules");

function readImport(name) {
  for (const folder of [__dirname, LIBRARIES]) {
    const file = path.join(folder, name);
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, "utf8") };
  }
  return { error: `${name} is neither here nor in node_modules` };
}

function compile(input) {
  return solc.compile(input, { import: readImport });
}

module.exports = { compile, version: () => solc.version() };

if (require.main === module) {
  if (process.argv.includes("--version")) {
    const version = solc.version().replace(".Emscripten.clang", ".Linux.g++"); // the only form that forge parses
    console.log(`solc, the solidity compiler commandline interface\nVersion: ${version}`);
  } else if (process.argv.includes("--standard-json")) {
    process.stdout.write(compile(fs.readFileSync(0, "utf8")));
  } else {
    console.error("solc.js: only --version and --standard-json");
    process.exit(1);
  }
}
