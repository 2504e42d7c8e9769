// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AssetRegistry} from "./AssetRegistry.sol";
import {Signed} from "./Signed.sol";
import {TwinScope} from "./TwinScope.sol";

/// @title Who may read whose twins, and until when.
/// @notice An owner and a consumer sign the same grant, and anybody hands both signatures in. It is open from its
/// beginning to its end by the clock, so expiry takes no transaction; its owner may end it sooner.
contract DataSharing is Signed {
    /// @notice What both sign.
    struct Grant {
        address owner;
        address consumer;
        string scope; // a twin topic filter, as TwinScope has it
        uint64 from; // seconds
        uint64 until; // seconds; at that moment it is over
        uint64 nonce; // tells two otherwise equal grants apart: each can be entered once
    }

    struct Record {
        Grant grant;
        bytes32 asset;
        uint64 revokedAt; // seconds; 0 if it was not
    }

    bytes32 private constant GRANT_TYPE = keccak256(
        "Grant(address owner,address consumer,string scope,uint64 from,uint64 until,uint64 nonce)"
    );
    bytes32 private constant REVOCATION_TYPE = keccak256("Revocation(bytes32 grant)");

    AssetRegistry public immutable assets;

    mapping(bytes32 id => Record) private _records;
    bytes32[] private _ids;

    event AccessGranted(
        bytes32 indexed id,
        address indexed owner,
        address indexed consumer,
        bytes32 asset,
        string scope,
        uint64 from,
        uint64 until
    );
    event AccessRevoked(bytes32 indexed id, address indexed owner, address indexed consumer, string scope);

    error TimesOutOfOrder(uint64 from, uint64 until);
    error NotOwner(bytes32 asset, address account, address owner);
    error GrantExists(bytes32 id);
    error UnknownGrant(bytes32 id);
    error AlreadyRevoked(bytes32 id, uint64 revokedAt);

    constructor(AssetRegistry assets_) {
        assets = assets_;
    }

    /// @notice Enter a grant that both have signed.
    /// @return id names it from now on: its EIP-712 struct hash
    function grant(Grant calldata terms, bytes calldata ownerSignature, bytes calldata consumerSignature)
        external
        returns (bytes32 id)
    {
        // slither-disable-next-line timestamp  a block producer shifts seconds
        if (terms.until <= terms.from || terms.until <= block.timestamp) {
            revert TimesOutOfOrder(terms.from, terms.until);
        }
        bytes32 asset = TwinScope.assetOf(terms.scope);
        address owner = assets.ownerOf(asset);
        if (owner == address(0) || owner != terms.owner) revert NotOwner(asset, terms.owner, owner);
        id = idOf(terms);
        if (_records[id].asset != 0) revert GrantExists(id);
        _requireSigned(terms.owner, id, ownerSignature);
        _requireSigned(terms.consumer, id, consumerSignature);
        _records[id] = Record(terms, asset, 0);
        _ids.push(id);
        emit AccessGranted(id, owner, terms.consumer, asset, terms.scope, terms.from, terms.until);
    }

    /// @notice The owner ends a grant, by signing `Revocation(bytes32 grant)`; for good, and also before it began.
    function revoke(bytes32 id, bytes calldata ownerSignature) external {
        Record storage entry = _records[id];
        if (entry.asset == 0) revert UnknownGrant(id);
        if (entry.revokedAt != 0) revert AlreadyRevoked(id, entry.revokedAt);
        Grant storage terms = entry.grant;
        _requireSigned(terms.owner, keccak256(abi.encode(REVOCATION_TYPE, id)), ownerSignature);
        entry.revokedAt = uint64(block.timestamp);
        emit AccessRevoked(id, terms.owner, terms.consumer, terms.scope);
    }

    // --- views ----------------------------------------------------------------------------------

    /// @notice Whether a grant is open now: begun, not over, not revoked, and the asset still its owner's.
    function isOpen(bytes32 id) external view returns (bool) {
        Record storage entry = _records[id];
        Grant storage terms = entry.grant;
        // slither-disable-next-line timestamp  a block producer shifts seconds
        return entry.revokedAt == 0 && terms.from <= block.timestamp && block.timestamp < terms.until
            && assets.ownerOf(entry.asset) == terms.owner;
    }

    /// @notice One grant; its asset is 0 if it is unknown.
    function record(bytes32 id) external view returns (Record memory) {
        return _records[id];
    }

    /// @notice Up to `limit` grants from position `start` on, in the order of entry: whoever acts on grants reads all.
    function records(uint256 start, uint256 limit) external view returns (Record[] memory page) {
        uint256 total = _ids.length;
        if (start >= total) return page;
        uint256 size = limit < total - start ? limit : total - start;
        page = new Record[](size);
        for (uint256 i; i < size; ++i) {
            page[i] = _records[_ids[start + i]];
        }
    }

    /// @notice How many grants were ever entered.
    function count() external view returns (uint256) {
        return _ids.length;
    }

    /// @notice Up to `limit` ids from position `start` on, in the order of entry: what an auditor walks.
    function ids(uint256 start, uint256 limit) external view returns (bytes32[] memory page) {
        uint256 total = _ids.length;
        if (start >= total) return page;
        uint256 size = limit < total - start ? limit : total - start;
        page = new bytes32[](size);
        for (uint256 i; i < size; ++i) {
            page[i] = _ids[start + i];
        }
    }

    function idOf(Grant calldata terms) public pure returns (bytes32) {
        return keccak256(
            abi.encode(
                GRANT_TYPE,
                terms.owner,
                terms.consumer,
                keccak256(bytes(terms.scope)),
                terms.from,
                terms.until,
                terms.nonce
            )
        );
    }
}
