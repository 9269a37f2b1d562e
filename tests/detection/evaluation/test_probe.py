import numpy as np
import pytest
import torch

from detection.evaluation import probe


def clusters(count, classes=4, channels=16, spread=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, channels, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, channels, generator=generator), labels


def slow_vote(features, labels, row, neighbours, temperature):
    similarities = [float(row @ one / (row.norm() * one.norm())) for one in features]
    votes = {}
    for place in sorted(range(len(features)), key=lambda i: -similarities[i])[:neighbours]:
        label = int(labels[place])
        votes[label] = votes.get(label, 0) + np.exp(similarities[place] / temperature)
    return max(votes, key=votes.get)


@pytest.mark.parametrize("neighbours", [1, 5, 20, 100])
def test_votes_of_neighbours_equal_those_of_a_loop(neighbours, monkeypatch):
    monkeypatch.setattr(probe, "ROWS", 7)  # several parts
    features, labels = clusters(60, spread=2.0)
    tested, _ = clusters(20, spread=2.0, seed=1)
    found = probe.nearest_neighbours(features, labels, tested, neighbours)
    assert found.tolist() == [slow_vote(features, labels, row, neighbours, 0.07) for row in tested]


def test_separate_classes_are_told_apart():
    features, labels = clusters(80)
    tested, truth = clusters(40, seed=1)
    for judge in (probe.nearest_neighbours, probe.linear_probe):
        assert judge(features, labels, tested).equal(truth)


def test_features_without_information_are_chance():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(400, 8, generator=generator), torch.arange(400) % 4
    tested = torch.randn(400, 8, generator=generator)
    for judge in (probe.nearest_neighbours, probe.linear_probe):
        assert 0.17 < float((judge(features, labels, tested) == labels).float().mean()) < 0.33


def test_the_scale_and_the_offset_of_a_channel_change_nothing_for_the_linear_probe():
    features, labels = clusters(100, spread=1.5)
    tested, _ = clusters(50, spread=1.5, seed=1)
    scale, offset = 10.0 ** torch.arange(16).remainder(5), torch.arange(16) * 3.0
    found = probe.linear_probe(features.double() * scale + offset, labels, tested.double() * scale + offset)
    assert found.equal(probe.linear_probe(features.double(), labels, tested.double()))


def test_a_channel_without_variance_is_harmless():
    features, labels = clusters(40)
    features[:, 0] = 5
    assert probe.linear_probe(features, labels, features).equal(labels)


def test_the_fit_is_where_the_gradient_vanishes():
    features, labels = clusters(50, spread=1.0)
    features = features.double()
    weight, bias = (one.requires_grad_() for one in probe.fit(features, labels, 0.01))
    loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels) + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-4


@pytest.mark.parametrize(("images", "classes"), [(1, 1), (3, 3), (4, 2)])
def test_few_images(images, classes):
    features, labels = torch.eye(images), torch.arange(images) % classes
    assert probe.linear_probe(features, labels, features).equal(labels)
    assert probe.nearest_neighbours(features, labels, features, 1).equal(labels)
    assert len(probe.nearest_neighbours(features, labels, features[:0])) == 0


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (37, 50)])
def test_the_interval_has_the_rates_that_the_count_does_not_reject(right, images):
    low, high = probe.interval(right, images)
    assert 0 <= low <= right / images <= high <= 1
    for rate in (low, high):
        if 0 < rate < 1:  # the score test is at its limit there
            assert abs(right / images - rate) == pytest.approx(1.96 * np.sqrt(rate * (1 - rate) / images))


def test_no_images_say_nothing():
    assert probe.interval(0, 0) == (0.0, 1.0)


def test_the_weight_decays_rise_from_nearly_none():
    assert list(probe.DECAYS) == sorted(probe.DECAYS)
    assert min(probe.DECAYS) > 0
