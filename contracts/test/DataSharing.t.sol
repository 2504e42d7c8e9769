// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {AssetRegistry} from "../src/AssetRegistry.sol";
import {DataSharing} from "../src/DataSharing.sol";
import {Signed} from "../src/Signed.sol";
import {TwinScope} from "../src/TwinScope.sol";
import {Consortium} from "./Consortium.sol";

contract DataSharingTest is Consortium {
    uint256 private constant OWNER = 101; // keys
    uint256 private constant CONSUMER = 102;
    string private constant SCOPE = "gemel/v1/plant-1/twin/press.7/state";

    AssetRegistry private assets;
    DataSharing private sharing;

    function setUp() public {
        vm.warp(1_000_000);
        _found(3, 4);
        assets = new AssetRegistry(devices);
        sharing = new DataSharing(assets);
        assets.assign("plant-1", "press.7", vm.addr(OWNER));
    }

    /// Open from its beginning to just before its end, and never else.
    function testFuzz_openExactlyBetweenItsTimes(uint64 from, uint64 until, uint64 now_) public {
        until = uint64(within(until, block.timestamp + 1, type(uint64).max));
        from = uint64(within(from, 0, until - 1));
        bytes32 id = _enter(_grant(from, until));
        now_ = uint64(within(now_, block.timestamp, type(uint64).max));
        vm.warp(now_);
        assert(sharing.isOpen(id) == (from <= now_ && now_ < until));
    }

    function testFuzz_emptyOrPastTimesAreRefused(uint64 from, uint64 until) public {
        vm.assume(until <= from || until <= block.timestamp);
        _refused(_grant(from, until), abi.encodeWithSelector(DataSharing.TimesOutOfOrder.selector, from, until));
    }

    function test_revocationIsTheOwnersAndForGood() public {
        DataSharing.Grant memory terms = _grant(0, 2_000_000);
        bytes32 id = _enter(terms);
        bytes memory byConsumer = _signFor(sharing, CONSUMER, _revocation(id));
        vm.expectRevert(
            abi.encodeWithSelector(Signed.BadSignature.selector, vm.addr(OWNER), vm.addr(CONSUMER))
        );
        sharing.revoke(id, byConsumer);
        bytes memory byOwner = _signFor(sharing, OWNER, _revocation(id));
        sharing.revoke(id, byOwner);
        assert(!sharing.isOpen(id));
        vm.expectRevert(abi.encodeWithSelector(DataSharing.AlreadyRevoked.selector, id, uint64(1_000_000)));
        sharing.revoke(id, byOwner);
        _refused(terms, abi.encodeWithSelector(DataSharing.GrantExists.selector, id));
        terms.nonce = 1;
        assert(sharing.isOpen(_enter(terms)));
    }

    function testFuzz_unknownGrantIsNeitherOpenNorRevocable(bytes32 id) public {
        assert(!sharing.isOpen(id));
        bytes memory signature = _signFor(sharing, OWNER, _revocation(id));
        vm.expectRevert(abi.encodeWithSelector(DataSharing.UnknownGrant.selector, id));
        sharing.revoke(id, signature);
    }

    /// Whoever else signs, and whatever else was signed, it is no grant.
    function testFuzz_bothMustSignExactlyThis(uint256 key, uint64 nonce) public {
        key = within(key, 1, 1 << 200);
        vm.assume(key != OWNER && key != CONSUMER && nonce != 0);
        DataSharing.Grant memory terms = _grant(0, 2_000_000);
        bytes32 id = sharing.idOf(terms);
        bytes memory owners = _signFor(sharing, OWNER, id);
        bytes memory consumers = _signFor(sharing, CONSUMER, id);
        bytes memory strangers = _signFor(sharing, key, id);
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, vm.addr(OWNER), vm.addr(key)));
        sharing.grant(terms, strangers, consumers);
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, vm.addr(CONSUMER), vm.addr(key)));
        sharing.grant(terms, owners, strangers);
        terms.nonce = nonce;
        (bool taken,) = address(sharing).call(abi.encodeCall(sharing.grant, (terms, owners, consumers)));
        assert(!taken);
    }

    function test_nobodyGrantsWhatIsNotHis() public {
        DataSharing.Grant memory terms = _grant(0, 2_000_000);
        terms.scope = "gemel/v1/plant-1/twin/press.8/state"; // nobody's
        bytes32 asset = assets.assetId("plant-1", "press.8");
        _refused(
            terms, abi.encodeWithSelector(DataSharing.NotOwner.selector, asset, vm.addr(OWNER), address(0))
        );
        assets.assign("plant-1", "press.8", address(this));
        _refused(
            terms, abi.encodeWithSelector(DataSharing.NotOwner.selector, asset, vm.addr(OWNER), address(this))
        );
    }

    function test_grantEndsWhenTheAssetChangesHands() public {
        bytes32 id = _enter(_grant(0, 2_000_000));
        assert(sharing.isOpen(id));
        assets.assign("plant-1", "press.7", address(this));
        assert(!sharing.isOpen(id));
    }

    function testFuzz_onlyTheOperatorAssigns(address stranger) public {
        vm.assume(stranger != address(this));
        bytes32 role = devices.OPERATOR_ROLE();
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, role)
        );
        assets.assign("plant-1", "press.7", stranger);
    }

    function test_idsAndRecordsAreWalkedInPages() public {
        DataSharing.Grant memory terms = _grant(0, 2_000_000);
        bytes32[3] memory entered;
        for (uint64 i; i < 3; ++i) {
            terms.nonce = i;
            entered[i] = _enter(terms);
        }
        assertEq(sharing.count(), 3);
        bytes32[] memory page = sharing.ids(1, 5);
        assertEq(page.length, 2);
        assert(page[0] == entered[1] && page[1] == entered[2]);
        assertEq(sharing.ids(3, 1).length, 0);
        DataSharing.Record[] memory records = sharing.records(1, 5);
        assertEq(records.length, 2);
        assert(sharing.idOf(records[0].grant) == entered[1] && sharing.idOf(records[1].grant) == entered[2]);
        assertEq(sharing.records(0, 1).length, 1);
        assertEq(sharing.records(3, 1).length, 0);
        assert(keccak256(bytes(sharing.record(entered[2]).grant.scope)) == keccak256(bytes(SCOPE)));
    }

    // --- scopes ---------------------------------------------------------------------------------

    function test_scopeNamesItsAssetWhateverTheLeaf() public view {
        bytes32 asset = this.assetOf(SCOPE);
        assert(asset == assets.assetId("plant-1", "press.7"));
        assert(asset == keccak256("gemel/v1/plant-1/twin/press.7"));
        string[4] memory leaves = ["delta", "schema", "event", "+"];
        for (uint256 i; i < leaves.length; ++i) {
            assert(this.assetOf(string.concat("gemel/v1/plant-1/twin/press.7/", leaves[i])) == asset);
        }
    }

    function test_otherTopicsAreNoScopes() public view {
        string[20] memory wrong = [
            "",
            "#",
            "gemel/v1/",
            "gemel/v1/plant-1",
            "gemel/v1/plant-1/twin/",
            "gemel/v1/plant-1/twin/press.7",
            "gemel/v1/plant-1/twin/press.7/",
            "gemel/v1/plant-1/twin/press.7/#",
            "gemel/v1/plant-1/twin/press.7/state/",
            "gemel/v1/plant-1/twin/press.7/desired/set",
            "gemel/v1/plant-1/twin/press.7/backfill",
            "gemel/v1/plant-1/twin/+/state",
            "gemel/v1/+/twin/press.7/state",
            "gemel/v1/plant-1/agent/press.7/state",
            "gemel/v1//twin/press.7/state",
            "gemel/v1/plant-1/twin//state",
            "gemel/v2/plant-1/twin/press.7/state",
            "gemel/v1/Plant/twin/press.7/state",
            "gemel/v1/plant-1/twin/.press/state",
            "/gemel/v1/plant-1/twin/press.7/state"
        ];
        for (uint256 i; i < wrong.length; ++i) {
            assert(!_isScope(wrong[i]));
        }
    }

    function test_nameOf64IsOneAnd65IsNot() public view {
        string memory name = "a123456789a123456789a123456789a123456789a123456789a123456789a123";
        assert(_isScope(string.concat("gemel/v1/plant/twin/", name, "/state")));
        assert(!_isScope(string.concat("gemel/v1/plant/twin/", name, "x/state")));
    }

    /// Whatever bytes come, a scope is refused by name or is one that its two names make.
    function testFuzz_anyBytesAreRefusedOrWellFormed(bytes memory middle, bytes memory tail) public view {
        string memory text = string(bytes.concat("gemel/v1/", middle, "/twin/", tail));
        try this.assetOf(text) returns (bytes32 asset) {
            bytes memory end = bytes(text);
            assert(end[end.length - 1] == "+" || end[end.length - 1] == "e" || end[end.length - 1] == "a"
                || end[end.length - 1] == "t");
            assert(asset != 0);
        } catch (bytes memory reason) {
            assert(keccak256(reason) == keccak256(abi.encodeWithSelector(TwinScope.ScopeInvalid.selector, text)));
        }
    }

    function testFuzz_scopeOfTwoNamesIsTheAssetOfTheseNames(uint8[8] memory site, uint8[8] memory asset) public view {
        (string memory a, string memory b) = (_name(site), _name(asset));
        assert(this.assetOf(string.concat("gemel/v1/", a, "/twin/", b, "/state")) == assets.assetId(a, b));
    }

    function assetOf(string calldata scope) external pure returns (bytes32) {
        return TwinScope.assetOf(scope);
    }

    // --- helpers --------------------------------------------------------------------------------

    function _name(uint8[8] memory seed) private pure returns (string memory) {
        bytes memory alphabet = "abcdefghijklmnopqrstuvwxyz0123456789._-";
        bytes memory name = new bytes(8);
        name[0] = alphabet[seed[0] % 36];
        for (uint256 i = 1; i < 8; ++i) {
            name[i] = alphabet[seed[i] % alphabet.length];
        }
        return string(name);
    }

    function _isScope(string memory scope) private view returns (bool) {
        try this.assetOf(scope) returns (bytes32) {
            return true;
        } catch {
            return false;
        }
    }

    function _grant(uint64 from, uint64 until) private pure returns (DataSharing.Grant memory) {
        return DataSharing.Grant(vm.addr(OWNER), vm.addr(CONSUMER), SCOPE, from, until, 0);
    }

    function _enter(DataSharing.Grant memory terms) private returns (bytes32 id) {
        id = sharing.idOf(terms);
        sharing.grant(terms, _signFor(sharing, OWNER, id), _signFor(sharing, CONSUMER, id));
    }

    function _refused(DataSharing.Grant memory terms, bytes memory reason) private {
        bytes32 id = sharing.idOf(terms);
        bytes memory owners = _signFor(sharing, OWNER, id);
        bytes memory consumers = _signFor(sharing, CONSUMER, id);
        vm.expectRevert(reason);
        sharing.grant(terms, owners, consumers);
    }

    function _revocation(bytes32 id) private pure returns (bytes32) {
        return keccak256(abi.encode(keccak256("Revocation(bytes32 grant)"), id));
    }
}
