#!/usr/bin/env node
// Compile the contracts into generated/*.json (ABI and bytecode). `--check` compares instead of writing.
// The result depends on the sources and the pinned versions only: no paths, no metadata hash.
const fs = require("fs");
const path = require("path");
const { compile, version } = require("./solc.js");

const CONTRACTS = [
  "DeviceRegistry",
  "RoundRegistry",
  "StakeToken",
  "Election",
  "Trust",
  "AssetRegistry",
  "DataSharing",
  "Maintenance",
  "AuditAnchors",
  "QualityVotes",
  "Administration",
];
const input = {
  language: "Solidity",
  sources: Object.fromEntries(
    CONTRACTS.map((name) => {
      const source = `src/${name}.sol`;
      return [source, { content: fs.readFileSync(path.join(__dirname, source), "utf8") }];
    }),
  ),
  settings: {
    evmVersion: "cancun", // OpenZeppelin 5 uses mcopy
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: "none" },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};

const output = JSON.parse(compile(JSON.stringify(input)));
for (const problem of output.errors ?? []) console.error(problem.formattedMessage);
if ((output.errors ?? []).length > 0) process.exit(1); // warnings are errors

let stale = 0;
for (const name of CONTRACTS) {
  const { abi, evm } = output.contracts[`src/${name}.sol`][name];
  const text = `${JSON.stringify({ contract: name, compiler: version(), abi, bytecode: `0x${evm.bytecode.object}` }, null, 1)}\n`;
  const file = path.join(__dirname, "generated", `${name}.json`);
  if (process.argv.includes("--check")) {
    if (fs.readFileSync(file, "utf8") !== text) {
      console.error(`generated/${name}.json is not what src/ compiles to: run \`npm run compile\``);
      stale += 1;
    }
  } else {
    fs.writeFileSync(file, text);
    console.log(`${name}: ${evm.deployedBytecode.object.length / 2} bytes deployed`);
  }
}
process.exit(stale === 0 ? 0 : 1);
