"""A persistent EVM chain in one process and one SQLite file, from pip packages alone: the demo's default chain.

    python -m gemel.embedded.chain --db chain.db --port 8545 --chain-id 31337 --alloc 0x…,0x…

    store.py   the file: EVM state, blocks, transactions, receipts, logs
    node.py    the chain: genesis, one block for each transaction, calls (py-evm, Prague rules)
    rpc.py     Ethereum's JSON-RPC: methods, parameters, error codes
    server.py  HTTP and WebSocket, `eth_subscribe` to newHeads

A block is one SQLite transaction (synchronous FULL), and a transaction is acknowledged after its block is on disk:
kill -9 loses nothing that was acknowledged. There are no reorganisations and no peers; a fleet that needs more than
one block producer points Gemel at any other EVM endpoint.
"""
