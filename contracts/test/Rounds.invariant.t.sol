// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Attestations} from "../src/Attestations.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {RoundRegistry, RoundState} from "../src/RoundRegistry.sol";
import {Rounds} from "./Rounds.sol";

/// @notice Plays rounds at random: mostly what moves a round on, sent by whoever may; else by strangers, by parties in
/// another role, by a validator without a seat, by one who is suspended or slashed. It keeps its own books of who signed
/// and revealed what, and after each call holds what the registry says against them.
contract RoundsHandler is Rounds {
    uint256 private constant UNSTAKED = 4; // a registered validator without stake
    uint256 private constant AGENT = 98; // keys
    uint256 private constant STRANGER = 99;
    uint256 private constant SIGNERS = VALIDATORS + 2;
    uint32 private constant PPM = 1_000_000;

    uint256 public approvals;
    uint256 public rejections;
    uint256 public rollbacks;
    uint256 public refusals;

    mapping(uint64 round => mapping(address validator => bool)) private _confirmed; // the sum, in truth
    mapping(uint64 round => uint256) private _confirming; // their weight
    mapping(uint64 round => mapping(address voter => QualityVotes.Reveal)) private _signed;
    mapping(uint64 round => mapping(address voter => bool)) private _revealed;
    mapping(uint64 round => bool) private _counted;
    mapping(uint64 round => bool) public sound; // the gate's conditions held when the ballot was closed, by these books
    mapping(uint64 round => RoundState) private _states;
    uint64 private _deployment;
    bytes32 private _model;
    uint256 private _models;
    bool private _suspended;
    bool private _slashed;

    /// What holds after every call, whatever it was.
    modifier watched() {
        _;
        uint64 last = rounds.task(TASK).lastRound;
        for (uint64 i = last > 2 ? last - 2 : 0; i <= last; ++i) {
            if (quality.ballotOf(TASK, i).closed && !_counted[i]) (_counted[i], sound[i]) = (true, _isSound(i));
            RoundState state = rounds.round(TASK, i).state;
            if (state == _states[i]) continue;
            assert(_isArrow(_states[i], state));
            if (state == RoundState.Confirmed) assert(_isQuorum(_confirming[i], election.totalWeightAt(_epoch(i))));
            if (state == RoundState.Approved) ++approvals;
            if (state == RoundState.Rejected) ++rejections;
            if (state == RoundState.RolledBack) {
                RoundRegistry.Round memory failed = rounds.round(TASK, i);
                assert(failed.model == _model && failed.base == rounds.task(TASK).model);
                assert(i == last || rounds.round(TASK, last).state >= RoundState.Rejected); // nothing builds on it
                ++rollbacks;
            }
            _states[i] = state;
        }
        RoundRegistry.Task memory task = rounds.task(TASK);
        assert(task.deployment == _deployment ? task.model == _model : task.deployment == _deployment + 1);
        (_deployment, _model) = (task.deployment, task.model);
    }

    constructor() {
        vm.warp(1_000_000);
        _found(4, 5);
        for (uint256 i; i < UNSTAKED; ++i) {
            vm.prank(_validator(i));
            election.stake(100 ether - i * 10 ether, address(0)); // 100, 90, 80, 70: 340 in all
        }
        election.closeEpoch();
        _register(AGENT, address(1), Role.Agent);
        _createTask(QUORUM_PART);
        _founded();
        (_states[0], _deployment, _model) = (RoundState.Deployed, 1, M0);
        (_counted[0], sound[0]) = (true, true);
    }

    /// What comes next in the round, sent by whoever it falls to, or (a quarter of the time) by another.
    function advance(uint8 sender, uint32 accuracy, uint32 baseline, uint8 doubts) external watched {
        RoundState state = rounds.round(TASK, _last()).state;
        if (state >= RoundState.Rejected) _tryOpenRound(sender);
        else if (state == RoundState.Open) _tryCloseList(sender);
        else if (state == RoundState.Listed) _tryProposeSum(sender, 255);
        else if (state == RoundState.Aggregated) _tryAttestSums(sender | 128, false);
        else if (state == RoundState.Confirmed) _tryRecordOpening(sender);
        else if (state == RoundState.Opened) _tryProposeCandidate(sender, doubts);
        else if (state == RoundState.Measured) _advanceBallot(sender, accuracy, baseline, doubts);
        else if (doubts < 64) _tryRollBack(sender, 0);
        else _tryRecordDeployed(sender);
    }

    /// Anything that a party may send, whatever the state.
    function play(uint8 what, uint8 who, uint8 how, uint32 accuracy, uint32 baseline) external watched {
        what %= 13;
        if (what == 0) _tryOpenRound(who);
        else if (what == 1) _tryCloseList(who);
        else if (what == 2) _tryProposeSum(who, how);
        else if (what == 3) _tryAttestSums(who, how > 128);
        else if (what == 4) _tryRecordOpening(who);
        else if (what == 5) _tryProposeCandidate(who, how);
        else if (what == 6) _tryCommit(who, accuracy, baseline, how);
        else if (what == 7) _tryReveal(who, how > 128);
        else if (what == 8) _tryCloseBallot();
        else if (what == 9) _tryFinalise(who);
        else if (what == 10) _tryRecordDeployed(who);
        else if (what == 11) _tryRollBack(who, how);
        else _tryAbort(who);
    }

    /// What happens around a round.
    function disturb(uint8 what, uint8 who, uint64 tokens) external watched {
        what %= 8;
        if (what < 3) vm.warp(block.timestamp + who / 8);
        else if (what == 3) _tryCloseEpoch();
        else if (what < 6) _tryDelegate(who, tokens);
        else if (what == 6) _trySuspend(who);
        else _trySlash(who);
    }

    // --- the parties ------------------------------------------------------------------------------

    function _tryOpenRound(uint8 sender) private {
        RoundRegistry.Task memory task = rounds.task(TASK);
        _send(sender, COORDINATOR, abi.encodeCall(rounds.openRound, (TASK, task.lastRound + 1, task.model, POLICY)));
    }

    function _tryCloseList(uint8 sender) private {
        _send(sender, COORDINATOR, abi.encodeCall(rounds.closeList, (TASK, _last(), ROOT)));
    }

    function _tryProposeSum(uint8 sender, uint8 owners) private {
        uint32 counted = owners < 32 ? owners % OWNERS : OWNERS;
        _send(
            sender, COORDINATOR, abi.encodeCall(rounds.proposeSum, (TASK, _last(), ROOT, DIGEST, counted, WEIGHT))
        );
        if (counted < OWNERS) assert(rounds.round(TASK, _last()).owners == 0 || _states[_last()] > RoundState.Listed);
    }

    /// One signs, or all who may; a lie is a signature over another digest.
    function _tryAttestSums(uint8 who, bool lie) private {
        uint64 round = _last();
        if (who >= 128) {
            uint256[] memory voters = _electorate(round);
            bytes memory data = abi.encodeCall(rounds.attestSums, (TASK, round, _sumSignatures(round, voters.length)));
            if (!_try(address(rounds), data)) return;
            for (uint256 i; i < voters.length; ++i) {
                _noteConfirmation(round, _validator(voters[i]));
            }
            return;
        }
        Attestations.SumAttestation memory sum = _sum(round);
        if (lie) sum.sumDigest = ROOT;
        RoundRegistry.SumSignature[] memory one = new RoundRegistry.SumSignature[](1);
        one[0] = RoundRegistry.SumSignature(vm.addr(_signer(who)), _signSum(_signer(who), sum));
        bool done = _try(address(rounds), abi.encodeCall(rounds.attestSums, (TASK, round, one)));
        if (done && !lie) _noteConfirmation(round, one[0].validator);
    }

    function _noteConfirmation(uint64 round, address validator) private {
        uint256 weight = election.weightAt(_epoch(round), validator);
        assert(weight > 0);
        if (_confirmed[round][validator]) return;
        _confirmed[round][validator] = true;
        _confirming[round] += weight;
    }

    function _tryRecordOpening(uint8 sender) private {
        _send(sender, CUSTODIAN, abi.encodeCall(rounds.recordOpening, (TASK, _last(), ROOT)));
    }

    /// A new model, or one that was there before.
    function _tryProposeCandidate(uint8 sender, uint8 old) private {
        bytes32 model = keccak256(abi.encode("model", old < 64 ? old % (_models + 1) : ++_models));
        bool known = rounds.lineage(TASK, model).deployment != 0;
        bool done = _send(
            sender, COORDINATOR, abi.encodeCall(rounds.proposeCandidate, (TASK, _last(), model, ROOT, GOOD))
        );
        assert(!done || !known);
    }

    function _advanceBallot(uint8 sender, uint32 accuracy, uint32 baseline, uint8 doubts) private {
        QualityVotes.Ballot memory ballot = quality.ballotOf(TASK, _last());
        if (ballot.committed == 0) _tryCommit(sender | 128, accuracy, baseline, doubts);
        else if (ballot.revealed == 0 && !ballot.closed) _tryReveal(sender | 128, false);
        else _tryFinalise(sender);
    }

    function _tryCommit(uint8 who, uint32 accuracy, uint32 baseline, uint8 doubts) private {
        if (who < 128) return _commit(_last(), _signer(who), accuracy, baseline, doubts > 32);
        for (uint256 i; i < VALIDATORS; ++i) {
            _commit(_last(), _key(i), accuracy, baseline, doubts % 32 != i);
        }
    }

    /// Signed votes are handed in by anybody; a lie changes what was signed.
    function _tryReveal(uint8 who, bool lie) private {
        if (who < 128) return _reveal(_last(), vm.addr(_signer(who)), lie);
        for (uint256 i; i < VALIDATORS; ++i) {
            _reveal(_last(), _validator(i), false);
        }
    }

    function _tryCloseBallot() private {
        _try(address(quality), abi.encodeCall(quality.close, (TASK, _last())));
    }

    function _tryFinalise(uint8 sender) private {
        bytes memory data = abi.encodeCall(rounds.finalise, (TASK, _last()));
        vm.prank(vm.addr(_signer(sender))); // anybody
        _try(address(rounds), data);
    }

    function _tryRecordDeployed(uint8 sender) private {
        _send(sender, LISTENER, abi.encodeCall(rounds.recordDeployed, (TASK, _last(), 1)));
    }

    function _tryRollBack(uint8 sender, uint8 back) private {
        uint64 round = _last() - uint64(within(back % 8, 0, _last()) % 3);
        RoundState state = rounds.round(TASK, round).state;
        bytes memory data = abi.encodeCall(rounds.rollBack, (TASK, round, 1, ROOT));
        bool done;
        if (state == RoundState.Approved) {
            done = _send(sender, LISTENER, data);
        } else if (sender < 64) {
            vm.prank(vm.addr(_signer(sender)));
            assert(!_try(address(rounds), data));
        } else {
            done = _try(address(rounds), data); // the operator
        }
        assert(!done || state == RoundState.Approved || state == RoundState.Deployed);
    }

    function _tryAbort(uint8 sender) private {
        if (sender % 8 == 0) _send(255, COORDINATOR, abi.encodeCall(rounds.abort, (TASK, _last(), "random")));
        else _send(sender % 64, COORDINATOR, abi.encodeCall(rounds.abort, (TASK, _last(), "random")));
    }

    // --- around them ------------------------------------------------------------------------------

    function _tryCloseEpoch() private {
        vm.warp(election.epochEnds());
        election.closeEpoch();
    }

    /// The unstaked gets some stake, others get more: the sets and weights of epochs differ.
    function _tryDelegate(uint8 who, uint64 tokens) private {
        if (who % 8 == 0) vm.prank(_validator(UNSTAKED));
        _try(
            address(election),
            who % 8 == 0
                ? abi.encodeCall(election.stake, (uint256(1 ether) + tokens, address(0)))
                : abi.encodeCall(election.delegate, (_validator(who % UNSTAKED), uint256(1 ether) + tokens, address(0)))
        );
    }

    function _trySuspend(uint8 who) private {
        if (who > 16 || _suspended) return;
        _suspended = true;
        devices.suspend(_validator(who % UNSTAKED));
    }

    function _trySlash(uint8 who) private {
        if (who > 16 || _slashed) return;
        _slashed = true;
        uint256 key = _key(who % UNSTAKED);
        Attestations.SumAttestation memory a = _sum(1 << 40);
        Attestations.SumAttestation memory b = _sum(1 << 40);
        b.weight = 0;
        election.slashContradictingSums(a, _signSum(key, a), b, _signSum(key, b));
    }

    // --- views ------------------------------------------------------------------------------------

    function registry() external view returns (RoundRegistry) {
        return rounds;
    }

    function taskId() external pure returns (bytes32) {
        return TASK;
    }

    function firstModel() external pure returns (bytes32) {
        return M0;
    }

    // --- inside -----------------------------------------------------------------------------------

    function _last() private view returns (uint64) {
        return rounds.task(TASK).lastRound;
    }

    function _epoch(uint64 round) private view returns (uint64) {
        return rounds.round(TASK, round).epoch;
    }

    function _signer(uint8 who) private pure returns (uint256) {
        uint256 index = who % SIGNERS;
        return index < VALIDATORS ? _key(index) : index == VALIDATORS ? AGENT : STRANGER;
    }

    /// Three times of four it is sent by whose part it is; by anybody else it must be refused.
    function _send(uint8 sender, uint256 right, bytes memory data) private returns (bool done) {
        uint256[8] memory keys = [_key(0), _key(1), _key(UNSTAKED), AGENT, STRANGER, CUSTODIAN, LISTENER, COORDINATOR];
        uint256 key = sender >= 64 ? right : keys[sender % 8];
        vm.prank(vm.addr(key));
        done = _try(address(rounds), data);
        assert(!done || key == right);
    }

    function _try(address target, bytes memory data) private returns (bool done) {
        (done,) = target.call(data);
        if (!done) ++refusals;
    }

    function _commit(uint64 round, uint256 key, uint32 accuracy, uint32 baseline, bool approve) private {
        if (rounds.round(TASK, round).state != RoundState.Measured) return;
        accuracy = uint32(within(accuracy, THRESHOLD - 50_000, PPM));
        baseline = uint32(within(baseline, THRESHOLD - 50_000, GOOD));
        QualityVotes.Commitment[] memory one = new QualityVotes.Commitment[](1);
        QualityVotes.Reveal memory vote;
        (one[0], vote) = _voteBy(key, round, accuracy, baseline, approve);
        bool before = quality.voteOf(TASK, round, vote.validator).commitment != 0;
        bool done = _try(address(quality), abi.encodeCall(quality.commit, (TASK, round, one)));
        if (!done || before) return;
        assert(election.seatAt(_epoch(round), vote.validator).weight > 0);
        _signed[round][vote.validator] = vote;
    }

    function _reveal(uint64 round, address voter, bool lie) private {
        QualityVotes.Reveal[] memory one = new QualityVotes.Reveal[](1);
        one[0] = _signed[round][voter];
        if (one[0].validator == address(0) || _revealed[round][voter]) return;
        if (lie) one[0].approved = !one[0].approved;
        bool done = _try(address(quality), abi.encodeCall(quality.reveal, (TASK, round, one)));
        assert(!done || !lie);
        if (done) _revealed[round][voter] = true;
    }

    /// From the signatures alone: the stake that approves is a quorum of all that was elected, at least half of the stake
    /// that revealed measured the threshold or more, and the medians in the registry are no regression.
    function _isSound(uint64 round) private view returns (bool) {
        uint64 epoch = _epoch(round);
        address[] memory elected = election.electedAt(epoch);
        uint256 total;
        uint256 heard;
        uint256 approving;
        uint256 enough;
        for (uint256 i; i < elected.length; ++i) {
            total += election.seatAt(epoch, elected[i]).weight;
            QualityVotes.Reveal storage vote = _signed[round][elected[i]];
            uint256 weight = _revealed[round][elected[i]] ? election.weightAt(epoch, elected[i]) : 0;
            heard += weight;
            if (vote.approved) approving += weight;
            if (vote.accuracy >= THRESHOLD) enough += weight;
        }
        QualityVotes.Ballot memory ballot = quality.ballotOf(TASK, round);
        return _isQuorum(approving, total) && 2 * enough >= heard && heard > 0
            && ballot.accuracy >= THRESHOLD && ballot.accuracy + MAX_REGRESSION >= ballot.baseline;
    }

    function _isQuorum(uint256 weight, uint256 total) private pure returns (bool) {
        return weight * PPM >= total * QUORUM_PART;
    }

    function _isArrow(RoundState from, RoundState to) private pure returns (bool) {
        if (to == RoundState.Aborted) return from >= RoundState.Open && from <= RoundState.Measured;
        if (to == RoundState.Rejected) return from == RoundState.Measured;
        if (to == RoundState.Deployed) return from == RoundState.Approved;
        if (to == RoundState.RolledBack) return from == RoundState.Approved || from == RoundState.Deployed;
        return uint8(to) == uint8(from) + 1;
    }
}

/// @notice What no order of calls, by whomever, may break.
/// forge-config: default.invariant.runs = 16
/// forge-config: default.invariant.depth = 250
contract RoundsInvariants {
    RoundsHandler private handler;
    RoundRegistry private rounds;
    bytes32 private task;

    function setUp() public {
        handler = new RoundsHandler();
        (rounds, task) = (handler.registry(), handler.taskId());
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// A model is in use, or may be deployed, only if a quorum of the elected stake revealed that it approves it, and the
    /// medians passed the gate; what is in use was not taken back, and leads to M0 by falling numbers.
    function invariant_nothingIsInUseOrDeployableUnlessTheElectedSaidSo() external view {
        _checkRounds();
        _checkLineage();
    }

    /// The handler is no straw man: left to chance it approves, rejects, rolls back, and is refused.
    function test_handlerReachesEveryEnd() external {
        for (uint256 i; i < 400; ++i) {
            uint256 seed = uint256(keccak256(abi.encode(i)));
            (uint8 what, uint8 who, uint8 how) = (uint8(seed >> 8), uint8(seed >> 16), uint8(seed >> 24));
            if (seed % 4 < 2) handler.advance(who, uint32(seed >> 32), uint32(seed >> 64), how);
            else if (seed % 4 == 2) handler.play(what, who, how, uint32(seed >> 32), uint32(seed >> 64));
            else handler.disturb(what, who, uint64(seed >> 32));
        }
        assert(handler.approvals() > 3 && handler.rejections() > 3);
        assert(handler.rollbacks() > 1 && handler.refusals() > 50);
    }

    function _checkRounds() private view {
        uint64 last = rounds.task(task).lastRound;
        uint64 number;
        for (uint64 i; i <= last; ++i) {
            RoundRegistry.Round memory round = rounds.round(task, i);
            bool approved = round.state == RoundState.Approved || round.state == RoundState.Deployed
                || round.state == RoundState.RolledBack;
            assert(approved == (round.deployment != 0));
            if (!approved) continue;
            assert(handler.sound(i));
            assert(round.deployment > number); // numbers rise from round to round
            number = round.deployment;
        }
        assert(number <= rounds.task(task).deployment);
    }

    function _checkLineage() private view {
        bytes32 model = rounds.task(task).model;
        uint64 number = type(uint64).max;
        while (model != handler.firstModel()) {
            RoundRegistry.Lineage memory lineage = rounds.lineage(task, model);
            assert(lineage.deployment != 0 && lineage.deployment < number && !lineage.rolledBack);
            assert(rounds.round(task, lineage.round).model == model && handler.sound(lineage.round));
            (model, number) = (lineage.parent, lineage.deployment);
        }
    }
}
