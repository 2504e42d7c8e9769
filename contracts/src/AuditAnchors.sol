// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title Merkle roots over logs that stand elsewhere, so that nobody can rewrite them afterwards.
/// @notice A log (the registry's reads, the listener's deployments) has a name and one writer role of its own. Its
/// entries are numbered from 1; each anchor covers the next of them without a gap, and nothing is ever changed or taken
/// back. Leaves and tree are those of gemel/wire/merkle.py: an entry is hashed twice, pairs are sorted.
contract AuditAnchors is AccessControl {
    struct Anchor {
        bytes32 root;
        uint64 first; // the entries that it covers
        uint64 last;
        uint64 anchoredAt; // seconds
        address by;
    }

    /// @notice So that a wrong number does not use up a log's numbers.
    uint64 public constant MOST_ENTRIES = 1_000_000;

    // slither-disable-next-line uninitialized-state  anchor fills it
    mapping(bytes32 log => Anchor[]) private _anchors;

    event RootAnchored(
        bytes32 indexed log, uint256 indexed index, bytes32 root, uint64 first, uint64 last, address indexed by
    );

    error RootMissing();
    error NotNext(bytes32 log, uint64 first, uint64 expected);
    error RangeOutOfBounds(uint64 first, uint64 last);
    error UnknownAnchor(bytes32 log, uint256 index);

    /// @param admin names the writer of each log (`writerRole`); a timelock
    constructor(address admin) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Put the next root of a log on chain.
    /// @param log keccak of its name
    /// @param first the number of the first entry under the root: one above the last that is anchored. A writer that
    /// sends twice, or left something out, is told so.
    function anchor(bytes32 log, uint64 first, uint64 last, bytes32 root) external onlyRole(writerRole(log)) {
        Anchor[] storage anchors = _anchors[log];
        if (root == 0) revert RootMissing();
        uint64 expected = anchoredEntries(log) + 1;
        if (first != expected) revert NotNext(log, first, expected);
        if (last < first || last - first >= MOST_ENTRIES) revert RangeOutOfBounds(first, last);
        emit RootAnchored(log, anchors.length, root, first, last, msg.sender);
        anchors.push(Anchor(root, first, last, uint64(block.timestamp), msg.sender));
    }

    /// @notice Whether `leaf` lies under an anchor, which `proof` leads to.
    function verify(bytes32 log, uint256 index, bytes32 leaf, bytes32[] calldata proof) external view returns (bool) {
        return MerkleProof.verifyCalldata(proof, anchorAt(log, index).root, leaf);
    }

    // --- views ----------------------------------------------------------------------------------

    /// @notice How many entries of a log are anchored, which is the number of the last one.
    function anchoredEntries(bytes32 log) public view returns (uint64) {
        Anchor[] storage anchors = _anchors[log];
        return anchors.length == 0 ? 0 : anchors[anchors.length - 1].last;
    }

    function anchorCount(bytes32 log) external view returns (uint256) {
        return _anchors[log].length;
    }

    function anchorAt(bytes32 log, uint256 index) public view returns (Anchor memory) {
        if (index >= _anchors[log].length) revert UnknownAnchor(log, index);
        return _anchors[log][index];
    }

    /// @notice The role that may write a log.
    function writerRole(bytes32 log) public pure returns (bytes32) {
        return keccak256(abi.encode("WRITER", log));
    }

    /// @notice The leaf of an entry: its bytes, hashed twice, so that no inner node passes for one.
    function leafOf(bytes calldata entry) external pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(entry)));
    }
}
